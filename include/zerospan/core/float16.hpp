/// @file
/// float16: IEEE binary16.
#pragma once

#include <bit>
#include <cstdint>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// IEEE binary16: magnitudes up to 65504, eleven significant bits, subnormals in units of 2^-24. Conversion rounds to
/// nearest, ties to even; from 65520 on it gives infinity. NaN stays NaN, made quiet, its sign and upper bits kept: in
/// both directions the bits of the processor's own instructions (F16C).
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  constexpr explicit float16(float value) noexcept : bits{round(std::bit_cast<std::uint32_t>(value))} {}
  constexpr explicit operator float() const noexcept { return std::bit_cast<float>(widen(bits)); }

  /// The bits of the binary16 nearest to the binary32 with the bits `word`.
  static constexpr std::uint16_t round(std::uint32_t word) noexcept {
    const std::uint32_t magnitude = word & 0x7fffffffU;
    // Beside 1/2 the last bit of a float is a subnormal's unit: the addition rounds.
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - half;
    const std::uint32_t normal = (magnitude - rebias + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
    const std::uint32_t nan = infinity | 0x200U | ((magnitude >> 13) & 0x3ffU);
    std::uint32_t rounded = magnitude < smallest_normal ? subnormal : normal;
    rounded = magnitude >= too_large ? infinity : rounded;
    rounded = magnitude > 0x7f800000U ? nan : rounded;
    return static_cast<std::uint16_t>((word >> 16 & 0x8000U) | rounded);
  }

  /// The bits of the binary32 that has the value of the binary16 with the bits `word`.
  static constexpr std::uint32_t widen(std::uint16_t word) noexcept {
    const std::uint32_t magnitude = word & 0x7fffU;
    const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24F);
    const std::uint32_t normal = (magnitude << 13) + rebias;
    const std::uint32_t special = (magnitude << 13) | 0x7f800000U | (magnitude > infinity ? 0x400000U : 0U);
    std::uint32_t wide = magnitude < 0x400U ? subnormal : normal;
    wide = magnitude >= infinity ? special : wide;
    return (static_cast<std::uint32_t>(word & 0x8000U) << 16) | wide;
  }

 private:
  static constexpr std::uint32_t infinity = 0x7c00U;
  static constexpr std::uint32_t half = 0x3f000000U;             ///< The bits of 0.5F.
  static constexpr std::uint32_t smallest_normal = 0x38800000U;  ///< Those of 2^-14.
  static constexpr std::uint32_t too_large = 0x47800000U;        ///< Those of 2^16.
  static constexpr std::uint32_t rebias = (127U - 15U) << 23;
};

}  // namespace zerospan::inline v0
