/// @file
/// The operations of fp32 that a compiler might round otherwise, each rounded once: the same bits on every processor.
#pragma once

#include <cmath>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// a * b + c, rounded once.
[[gnu::always_inline]] constexpr float multiply_add(float a, float b, float c) noexcept {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

/// a * b. It stands alone, or is the addend of a `multiply_add`: else a compiler for CPUs may contract it.
[[gnu::always_inline]] constexpr float product(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

[[gnu::always_inline]] constexpr float quotient(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

[[gnu::always_inline]] constexpr float square_root(float a) noexcept {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return std::sqrt(a);
#endif
}

}  // namespace zerospan::inline v0::detail
