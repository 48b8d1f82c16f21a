/// @file
/// Moments in 8 bits: blocks of codes with a scale each, and how a moment is rounded to one.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>

namespace zerospan::inline v0::detail {

/// Codes of shares of a scale: 0, and the `Largest` floats up to 1 that have three bits after the first one, so that
/// each is an eighth to a sixteenth larger than the one below it. The largest code stands for the scale itself,
/// exactly: who encodes what was decoded gets the same scale and the same codes.
///
/// @tparam Largest 127 of the first moment, which has a sign: shares from 2^-15.75 on. 255 of the second, which has
/// none: from 2^-31.75 on.
template <int Largest>
struct ShareCode {
  static constexpr int dropped_bits = 20;                                     ///< Of the fraction of a float.
  static constexpr int below_first = (0x3f800000 >> dropped_bits) - Largest;  ///< What the bits of code 0 would be.

  /// @param code From 0 on.
  [[gnu::always_inline]] static constexpr float decode(int code, float scale) noexcept {
    const auto bits = static_cast<std::uint32_t>(code + below_first) << dropped_bits;
    return product(std::bit_cast<float>(code > 0 ? bits : 0U), scale);
  }

  /// One of the two shares around that of a magnitude, the nearer one more often; 0 for what is smaller than the first.
  /// @param inverse Of the scale. @param dither As `Dither` has it.
  [[gnu::always_inline]] static constexpr int encode(float magnitude, float inverse, std::uint32_t dither) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(product(magnitude, inverse));
    return std::max(static_cast<int>((bits + dither) >> dropped_bits) - below_first, 0);
  }
};

using SecondMomentCode = ShareCode<255>;

/// A `ShareCode` of the magnitude, and the sign above it.
struct FirstMomentCode : ShareCode<127> {
  static constexpr std::uint32_t sign = 0x80U;

  [[gnu::always_inline]] static constexpr float decode(std::uint8_t code, float scale) noexcept {
    const float magnitude = ShareCode::decode(code & 0x7f, scale);
    return code & sign ? -magnitude : magnitude;
  }
  [[gnu::always_inline]] static constexpr int encode(float moment, float inverse, std::uint32_t dither) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(moment);
    const float magnitude = std::bit_cast<float>(bits & 0x7fffffffU);
    return ShareCode::encode(magnitude, inverse, dither) | static_cast<int>(bits >> 24 & sign);
  }
};

/// The scale of a block: the largest magnitude in it; 0 if that is subnormal, where the inverse would be infinite; NaN
/// if anything in it is not finite.
/// @param largest The largest `magnitude_bits` in the block.
constexpr float moment_scale(std::uint32_t largest) noexcept {
  constexpr std::uint32_t infinity = 0x7f800000U;
  constexpr std::uint32_t quiet_nan = 0x7fc00000U;
  constexpr std::uint32_t smallest_normal = 0x00800000U;
  if (largest >= infinity) return std::bit_cast<float>(quiet_nan);
  return largest < smallest_normal ? 0.0F : std::bit_cast<float>(largest);
}

/// What is added to the bits of a share before those that no code has are dropped. Of an element, in the order of its
/// updates, they are spread evenly over the dropped bits, and so are those of the elements of a block at each update. A
/// moment is then on the average what it was: in an update the second one changes by a thousandth, which rounding to
/// the nearest code would undo each time. They are multiples of an irrational number, without their whole part (Weyl):
/// nothing is drawn, and the same update gives the same bits. None is so small or so large that what is lost of a share
/// by computing it changes its code.
struct Dither {
  static constexpr std::uint32_t of_update = 40503U << 4;   ///< The golden ratio's part after the point, in 2^-20.
  static constexpr std::uint32_t of_element = 27145U << 4;  ///< That of the root of 2.
  static constexpr std::uint32_t middle = 1U << 3;          ///< Between multiples of 16, as the others are.
  static constexpr std::uint32_t kept = 0x000fffffU;

  /// Only the lower bits mean anything. @param place Of the element, in its block.
  [[gnu::always_inline]] static constexpr std::uint32_t phase(std::uint32_t update, std::uint32_t place) noexcept {
    return update * of_update + place * of_element + middle;
  }
  [[gnu::always_inline]] static constexpr std::uint32_t at(std::uint32_t update, std::uint32_t place) noexcept {
    return phase(update, place) & kept;
  }
};

}  // namespace zerospan::inline v0::detail
