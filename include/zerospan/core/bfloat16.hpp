/// @file
/// bfloat16: a float's range in 16 bits.
#pragma once

#include <bit>
#include <cstdint>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// The upper half of an IEEE binary32; conversion rounds to nearest, ties to even, and keeps NaN.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  constexpr explicit bfloat16(float value) noexcept : bits{round(std::bit_cast<std::uint32_t>(value))} {}
  constexpr explicit operator float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

  /// The bits of the bfloat16 nearest to the binary32 with the bits `word`.
  static constexpr std::uint16_t round(std::uint32_t word) noexcept {
    const bool is_nan = (word & 0x7fffffffU) > 0x7f800000U;
    const std::uint32_t rounded = word + 0x7fffU + ((word >> 16) & 1U);
    return static_cast<std::uint16_t>(is_nan ? (word >> 16) | 0x40U : rounded >> 16);
  }
};

}  // namespace zerospan::inline v0
