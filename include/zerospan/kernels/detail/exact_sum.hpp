/// @file
/// ExactSum: a sum of doubles without rounding, so that the order of its terms cannot matter.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// The exact sum of any finite doubles, of either sign: a fixed-point integer as wide as the range of doubles (a long
/// accumulator; Kulisch, "Computer Arithmetic and Validity", chapter 8). Digit k counts units of 2^(32 k - 1074).
///
/// Digits are 32 bits wide in 64-bit slots: what is above the 32nd bit is a carry not yet handed on. Adding the digits
/// of two sums, slot by slot, adds the sums; `digits()` hands the carries on first, so that the digits of up to 2^30
/// ranks may be added without overflow. Terms that are not finite are counted in the last slot.
class ExactSum {
 public:
  /// Slots of the representation: 68 digits reach 2^1102 and carry the sign; one counts terms that are not finite.
  static constexpr std::size_t digit_count = 69;

  /// What a term adds to the digits: `values[i]` to the digit in slot `first + i`, for i < `count`.
  struct Parts {
    std::size_t first;
    std::size_t count;
    std::array<std::int64_t, 3> values;
  };

  /// The digits of one term, for sums that are kept elsewhere: in any order, as long as no slot overflows.
  static constexpr Parts parts(double term) noexcept {
    const auto bits = std::bit_cast<std::uint64_t>(term);
    const std::uint64_t exponent = (bits >> 52) & 0x7ffU;
    if (exponent == 0x7ffU) return {nonfinite_slot, 1, {1, 0, 0}};
    const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
    const std::uint64_t mantissa = exponent == 0 ? fraction : fraction | (std::uint64_t{1} << 52);
    const std::uint64_t position = exponent == 0 ? 0 : exponent - 1;
    const auto shift = static_cast<unsigned>(position % 32);
    const std::uint64_t lower = (mantissa & digit_mask) << shift;
    const std::uint64_t upper = (mantissa >> 32) << shift;
    const auto low = static_cast<std::int64_t>(lower & digit_mask);
    const auto middle = static_cast<std::int64_t>((lower >> 32) + (upper & digit_mask));
    const auto high = static_cast<std::int64_t>(upper >> 32);
    const std::int64_t sign = (bits >> 63) != 0 ? -1 : 1;
    return {position / 32, 3, {sign * low, sign * middle, sign * high}};
  }

  /// Adds a term, exactly.
  void add(double term) noexcept {
    make_room();
    const Parts added = parts(term);
    for (std::size_t i = 0; i < added.count; ++i) digits_[added.first + i] += added.values[i];
  }

  /// Adds another sum, exactly.
  void merge(ExactSum other) noexcept {
    const auto digits = other.digits();
    make_room();
    for (std::size_t k = 0; k < digit_count; ++k) digits_[k] += digits[k];
  }

  /// Adds the digits of another sum, or of several, slot by slot.
  void merge(std::span<const std::int64_t, digit_count> digits) noexcept {
    ExactSum other;
    std::ranges::copy(digits, other.digits_.begin());
    merge(other);
  }

  /// The representation, to be exchanged: replace it by the sum, slot by slot, of those of all ranks. Equal sums have
  /// equal digits. It is valid until the next call.
  std::span<std::int64_t, digit_count> digits() noexcept {
    normalize();
    return digits_;
  }

  /// True if every term was finite.
  bool finite() const noexcept { return digits_[nonfinite_slot] == 0; }

  /// The double nearest to the exact sum, ties to even; infinite if that is past the range, NaN unless `finite()`.
  double value() const noexcept {
    if (!finite()) return std::numeric_limits<double>::quiet_NaN();
    auto digits = digits_;
    carry(digits);
    const bool negative = digits[top_digit] < 0;
    if (negative) {
      for (std::int64_t& digit : digits) digit = -digit;
      carry(digits);
    }
    const double magnitude = rounded(digits);
    return negative ? -magnitude : magnitude;
  }

 private:
  using Digits = std::array<std::int64_t, digit_count>;

  static constexpr std::size_t nonfinite_slot = digit_count - 1;
  static constexpr std::size_t top_digit = digit_count - 2;
  static constexpr std::uint64_t digit_mask = 0xffffffffU;

  /// Terms between carries. Each changes a slot by less than 2^32 * 3/2: with the digits of 2^30 ranks (2^62) they stay
  /// below 2^63.
  static constexpr std::uint32_t max_pending = std::uint32_t{1} << 29;

  /// Hands carries on: every digit but the top one is then in [0, 2^32), and the top one has the sign.
  static void carry(Digits& digits) noexcept {
    std::int64_t above = 0;
    for (std::size_t k = 0; k < top_digit; ++k) {
      const std::int64_t digit = digits[k] + above;
      above = digit >> 32;
      digits[k] = static_cast<std::int64_t>(static_cast<std::uint64_t>(digit) & digit_mask);
    }
    digits[top_digit] += above;
  }

  void normalize() noexcept {
    carry(digits_);
    pending_ = 0;
  }

  void make_room() noexcept {
    if (pending_ == max_pending) normalize();
    ++pending_;
  }

  /// The double nearest to carried digits without sign. A double's bits, read as an integer, are
  /// (lowest << 52) + mantissa, where `lowest` is the position of the mantissa's last bit: a subnormal has 0, and a
  /// carry out of a rounded mantissa is the next exponent, or infinity.
  static double rounded(const Digits& digits) noexcept {
    std::size_t high = top_digit;
    while (high > 0 && digits[high] == 0) --high;
    const auto width = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(digits[high])));
    const std::size_t highest = 32 * high + std::max<std::size_t>(width, 1) - 1;
    if (highest >= 2098) return std::numeric_limits<double>::infinity();
    const std::size_t lowest = std::max<std::size_t>(highest, 52) - 52;

    const auto digit = [&](std::size_t k) { return static_cast<std::uint64_t>(digits[k]); };
    const std::size_t k = lowest / 32;
    const std::size_t shift = lowest % 32;
    const std::uint64_t above = shift == 0 ? 0 : digit(k + 2) << (64 - shift);
    std::uint64_t bits = (digit(k) >> shift) | (digit(k + 1) << (32 - shift)) | above;
    const bool odd = (bits & 1U) != 0;
    bits += static_cast<std::uint64_t>(lowest) << 52;
    if (lowest > 0) {
      const std::size_t half = lowest - 1;
      const std::uint64_t half_bit = std::uint64_t{1} << (half % 32);
      const std::uint64_t half_digit = digit(half / 32);
      const bool beyond = (half_digit & (half_bit - 1)) != 0 ||
                          std::any_of(digits.begin(), digits.begin() + static_cast<std::ptrdiff_t>(half / 32),
                                      [](std::int64_t lower) { return lower != 0; });
      if ((half_digit & half_bit) != 0 && (beyond || odd)) ++bits;
    }
    return std::bit_cast<double>(bits);
  }

  Digits digits_{};
  std::uint32_t pending_ = 0;
};

}  // namespace zerospan::inline v0::detail
