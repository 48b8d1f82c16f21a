/// @file
/// A float in two halves of 16 bits: the nearest bfloat16, and what it lacks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// Nothing is lost: `float(SplitFloat{x})` has the bits of x, but that a NaN becomes quiet. `nearest` is the nearest
/// bfloat16; of two that are equally near the one away from zero, where `bfloat16{x}` is the even one: 16 bits cannot
/// tell on which side of an even one x was.
struct SplitFloat {
  bfloat16 nearest{};
  std::uint16_t lower = 0;  ///< The lower half of the bits.

  SplitFloat() = default;
  constexpr SplitFloat(bfloat16 upper, std::uint16_t rest) noexcept : nearest{upper}, lower{rest} {}

  constexpr explicit SplitFloat(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    nearest.bits = static_cast<std::uint16_t>(is_nan(word) ? (word >> 16) | 0x40U : (word + 0x8000U) >> 16);
    lower = static_cast<std::uint16_t>(word);
  }

  constexpr explicit operator float() const noexcept {
    const std::uint32_t word = std::uint32_t{nearest.bits} << 16 | lower;
    const bool was_rounded_up = lower >= 0x8000U && !is_nan(std::uint32_t{nearest.bits} << 16);
    return std::bit_cast<float>(was_rounded_up ? word - 0x10000U : word);
  }

 private:
  static constexpr bool is_nan(std::uint32_t word) noexcept { return (word & 0x7fffffffU) > 0x7f800000U; }
};

namespace detail {

/// So many at once: the count is a constant, so that the loops vectorize at every optimization level.
inline constexpr std::size_t split_step = 64;

template <class F>
[[gnu::always_inline]] inline void for_each_split(std::size_t n, F f) noexcept {
  std::size_t i = 0;
  for (; i + split_step <= n; i += split_step) {
    for (std::size_t k = 0; k < split_step; ++k) f(i + k);
  }
  for (; i < n; ++i) f(i);
}

}  // namespace detail

/// Splits each value; all spans are of one length, and do not overlap.
inline void split(std::span<const float> values, bfloat16* nearest, std::uint16_t* lower) noexcept {
  const float* const __restrict from = values.data();
  bfloat16* const __restrict upper = nearest;
  std::uint16_t* const __restrict rest = lower;
  detail::for_each_split(values.size(), [=](std::size_t i) {
    const SplitFloat halves{from[i]};
    upper[i] = halves.nearest;
    rest[i] = halves.lower;
  });
}

/// Joins as many values as `values` has room for.
inline void join(const bfloat16* nearest, const std::uint16_t* lower, std::span<float> values) noexcept {
  const bfloat16* const __restrict upper = nearest;
  const std::uint16_t* const __restrict rest = lower;
  float* const __restrict to = values.data();
  detail::for_each_split(values.size(),
                         [=](std::size_t i) { to[i] = static_cast<float>(SplitFloat{upper[i], rest[i]}); });
}

}  // namespace zerospan::inline v0
