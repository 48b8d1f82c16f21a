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
/// accumulator; Kulisch, "Computer Arithmetic and Validity", chapter 8). Limb k counts units of 2^(32 k - 1074).
///
/// A limb has 32 bits, and a slot of 64 to itself: what is above the 32nd bit is a carry that has not been propagated
/// yet. Adding the limbs of two sums, slot by slot, adds the sums; `limbs()` propagates the carries first, so that the
/// limbs of up to 2^30 ranks may be added without overflow. Terms that are not finite are counted in the last slot.
class ExactSum {
 public:
  /// Slots of the representation: 68 limbs reach 2^1102 and carry the sign; one counts terms that are not finite.
  static constexpr std::size_t limb_count = 69;

  /// What a term adds to the limbs: `values[i]` to the limb in slot `first + i`, for i < `count`.
  struct Parts {
    std::size_t first;
    std::size_t count;
    std::array<std::int64_t, 3> values;
  };

  /// The limbs of one term, for sums that are kept elsewhere. Terms may be added in any order, up to 2^29 of them
  /// before the carries are propagated.
  static constexpr Parts parts(double term) noexcept {
    const auto bits = std::bit_cast<std::uint64_t>(term);
    const std::uint64_t exponent = (bits >> 52) & 0x7ffU;
    if (exponent == 0x7ffU) return {nonfinite_slot, 1, {1, 0, 0}};
    const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
    const std::uint64_t mantissa = exponent == 0 ? fraction : fraction | (std::uint64_t{1} << 52);
    const std::uint64_t position = exponent == 0 ? 0 : exponent - 1;
    const auto shift = static_cast<unsigned>(position % 32);
    const std::uint64_t lower = (mantissa & limb_mask) << shift;
    const std::uint64_t upper = (mantissa >> 32) << shift;
    const auto low = static_cast<std::int64_t>(lower & limb_mask);
    const auto middle = static_cast<std::int64_t>((lower >> 32) + (upper & limb_mask));
    const auto high = static_cast<std::int64_t>(upper >> 32);
    const std::int64_t sign = (bits >> 63) != 0 ? -1 : 1;
    return {position / 32, 3, {sign * low, sign * middle, sign * high}};
  }

  /// Adds a term, exactly.
  void add(double term) noexcept {
    make_room();
    const Parts added = parts(term);
    for (std::size_t i = 0; i < added.count; ++i) limbs_[added.first + i] += added.values[i];
  }

  /// Adds another sum, exactly.
  void merge(ExactSum other) noexcept {
    const auto limbs = other.limbs();
    make_room();
    for (std::size_t k = 0; k < limb_count; ++k) limbs_[k] += limbs[k];
  }

  /// Adds the limbs of another sum, or of several, slot by slot.
  void merge(std::span<const std::int64_t, limb_count> limbs) noexcept {
    ExactSum other;
    std::ranges::copy(limbs, other.limbs_.begin());
    merge(other);
  }

  /// The representation, to be exchanged: replace it by the sum, slot by slot, of those of all ranks. Equal sums have
  /// equal limbs. It is valid until the next call.
  std::span<std::int64_t, limb_count> limbs() noexcept {
    normalize();
    return limbs_;
  }

  /// True if every term was finite.
  bool finite() const noexcept { return limbs_[nonfinite_slot] == 0; }

  /// The double nearest to the exact sum, ties to even; infinite if that is past the range, NaN unless `finite()`.
  double value() const noexcept {
    if (!finite()) return std::numeric_limits<double>::quiet_NaN();
    auto limbs = limbs_;
    carry(limbs);
    const bool negative = limbs[top_limb] < 0;
    if (negative) {
      for (std::int64_t& limb : limbs) limb = -limb;
      carry(limbs);
    }
    const double magnitude = rounded(limbs);
    return negative ? -magnitude : magnitude;
  }

 private:
  using Limbs = std::array<std::int64_t, limb_count>;

  static constexpr std::size_t nonfinite_slot = limb_count - 1;
  static constexpr std::size_t top_limb = limb_count - 2;
  static constexpr std::uint64_t limb_mask = 0xffffffffU;

  /// Terms between carries. Each changes a slot by less than 2^32 * 3/2: with the limbs of 2^30 ranks (2^62) they stay
  /// below 2^63.
  static constexpr std::uint32_t max_pending = std::uint32_t{1} << 29;

  /// Propagates the carries: every limb but the top one is then in [0, 2^32), and the top one has the sign.
  static void carry(Limbs& limbs) noexcept {
    std::int64_t above = 0;
    for (std::size_t k = 0; k < top_limb; ++k) {
      const std::int64_t limb = limbs[k] + above;
      above = limb >> 32;
      limbs[k] = static_cast<std::int64_t>(static_cast<std::uint64_t>(limb) & limb_mask);
    }
    limbs[top_limb] += above;
  }

  void normalize() noexcept {
    carry(limbs_);
    pending_ = 0;
  }

  void make_room() noexcept {
    if (pending_ == max_pending) normalize();
    ++pending_;
  }

  /// The double nearest to carried limbs without sign. A double's bits, read as an integer, are
  /// (lowest << 52) + mantissa, where `lowest` is the position of the mantissa's last bit: a subnormal has 0, and a
  /// carry out of a rounded mantissa is the next exponent, or infinity.
  static double rounded(const Limbs& limbs) noexcept {
    std::size_t high = top_limb;
    while (high > 0 && limbs[high] == 0) --high;
    const auto width = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(limbs[high])));
    const std::size_t highest = 32 * high + std::max<std::size_t>(width, 1) - 1;
    if (highest >= 2098) return std::numeric_limits<double>::infinity();
    const std::size_t lowest = std::max<std::size_t>(highest, 52) - 52;

    const auto limb = [&](std::size_t k) { return static_cast<std::uint64_t>(limbs[k]); };
    const std::size_t k = lowest / 32;
    const std::size_t shift = lowest % 32;
    const std::uint64_t above = shift == 0 ? 0 : limb(k + 2) << (64 - shift);
    std::uint64_t bits = (limb(k) >> shift) | (limb(k + 1) << (32 - shift)) | above;
    const bool odd = (bits & 1U) != 0;
    bits += static_cast<std::uint64_t>(lowest) << 52;
    if (lowest > 0) {
      const std::size_t half = lowest - 1;
      const std::uint64_t half_bit = std::uint64_t{1} << (half % 32);
      const std::uint64_t half_limb = limb(half / 32);
      const bool beyond = (half_limb & (half_bit - 1)) != 0 ||
                          std::any_of(limbs.begin(), limbs.begin() + static_cast<std::ptrdiff_t>(half / 32),
                                      [](std::int64_t lower) { return lower != 0; });
      if ((half_limb & half_bit) != 0 && (beyond || odd)) ++bits;
    }
    return std::bit_cast<double>(bits);
  }

  Limbs limbs_{};
  std::uint32_t pending_ = 0;
};

}  // namespace zerospan::inline v0::detail
