/// @file
/// What is done to the bytes of a gradient on its way: accumulation, and the squared norm.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/avx2.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>

namespace zerospan::inline v0::detail {

/// Partial sums of one block: lane j takes the elements j, j + 16, ... Sixteen doubles are four AVX2 registers, which
/// hide the latency of an addition.
using NormLanes = std::array<double, 16>;

#if defined(__x86_64__)
namespace avx2 {

/// Both kernels treat the elements below the last multiple of their width. @return how many.
template <ElementType Type>
[[gnu::target("avx2,fma,f16c")]] inline std::size_t accumulate(float* accumulator, const std::byte* gradient,
                                                               std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(accumulator + i, _mm256_add_ps(_mm256_loadu_ps(accumulator + i), load8<Type>(gradient, i)));
  }
  return i;
}

template <ElementType Type>
[[gnu::target("avx2,fma,f16c")]] inline std::size_t add_squares(NormLanes& lanes, const std::byte* values,
                                                                std::size_t n) noexcept {
  __m256d sum0 = _mm256_setzero_pd();
  __m256d sum1 = _mm256_setzero_pd();
  __m256d sum2 = _mm256_setzero_pd();
  __m256d sum3 = _mm256_setzero_pd();
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256 low = load8<Type>(values, i);
    const __m256 high = load8<Type>(values, i + 8);
    const __m256d x0 = _mm256_cvtps_pd(_mm256_castps256_ps128(low));
    const __m256d x1 = _mm256_cvtps_pd(_mm256_extractf128_ps(low, 1));
    const __m256d x2 = _mm256_cvtps_pd(_mm256_castps256_ps128(high));
    const __m256d x3 = _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1));
    sum0 = _mm256_fmadd_pd(x0, x0, sum0);
    sum1 = _mm256_fmadd_pd(x1, x1, sum1);
    sum2 = _mm256_fmadd_pd(x2, x2, sum2);
    sum3 = _mm256_fmadd_pd(x3, x3, sum3);
  }
  _mm256_storeu_pd(lanes.data(), sum0);
  _mm256_storeu_pd(lanes.data() + 4, sum1);
  _mm256_storeu_pd(lanes.data() + 8, sum2);
  _mm256_storeu_pd(lanes.data() + 12, sum3);
  return i;
}

}  // namespace avx2
#endif

template <ElementType Type>
void accumulate(float* accumulator, const std::byte* gradient, std::size_t n,
                [[maybe_unused]] InstructionSet set) noexcept {
  std::size_t i = 0;
#if defined(__x86_64__)
  if (has_avx2(set)) i = avx2::accumulate<Type>(accumulator, gradient, n);
#endif
  for (; i < n; ++i) accumulator[i] += load_element<Type>(gradient, i);
}

/// The sum of squares of a block of at most `block_elements`; missing elements count as zeros.
template <ElementType Type>
double block_square_sum(const std::byte* values, std::size_t n, [[maybe_unused]] InstructionSet set) noexcept {
  NormLanes lanes{};
  std::size_t i = 0;
#if defined(__x86_64__)
  if (has_avx2(set)) i = avx2::add_squares<Type>(lanes, values, n);
#endif
  for (; i < n; ++i) {
    const auto x = static_cast<double>(load_element<Type>(values, i));
    lanes[i % lanes.size()] += x * x;  // the square of a float is exact in double: fused or not, the bits are the same
  }
  for (std::size_t width = lanes.size() / 2; width > 0; width /= 2) {
    for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

/// Calls `f(first, count)` for each block of `n` elements; the last may be shorter.
template <class F>
void for_each_block(std::size_t n, F f) {
  for (std::size_t i = 0; i < n; i += block_elements) f(i, std::min(block_elements, n - i));
}

/// accumulator[i] += gradient[i], in fp32, for `n` elements.
/// @param set One that this processor has.
inline void accumulate(float* accumulator, ElementType type, const std::byte* gradient, std::size_t n,
                       InstructionSet set = best_instruction_set()) noexcept {
  dispatch_element_type(type, [&](auto constant) { accumulate<constant.value>(accumulator, gradient, n, set); });
}

/// Adds the squares of `n` elements, the first of which begins a logical block, to `sum`. Within each block of
/// `block_elements` they are summed in double, in 16 interleaved lanes that are then folded by halves; a last shorter
/// block counts as padded by zeros. Blocks are added exactly: the sum depends neither on their order nor on who adds
/// them. It is not `finite()` if an element is not: the overflow check comes for free.
/// @param set One that this processor has.
inline void square_norm(ElementType type, const std::byte* gradient, std::size_t n, ExactSum& sum,
                        InstructionSet set = best_instruction_set()) noexcept {
  dispatch_element_type(type, [&](auto constant) {
    for_each_block(n, [&](std::size_t first, std::size_t count) {
      sum.add(block_square_sum<constant.value>(gradient + first * element_bytes(type), count, set));
    });
  });
}

}  // namespace zerospan::inline v0::detail
