/// @file
/// Fingerprint: many values as one number, by which ranks notice that they were told different things.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/philox.hpp>

namespace zerospan::inline v0::detail {

/// Of a sequence of values; equal sequences give equal fingerprints on every processor, others do with a probability of
/// 2^-64.
class Fingerprint {
 public:
  /// Numbers, each in [0, 2^32), that stand for a fingerprint where numbers are added over ranks.
  static constexpr std::size_t summand_count = 3;
  using Summands = std::array<std::int64_t, summand_count>;

  constexpr Fingerprint& add(std::uint64_t value) noexcept {
    value_ += value + 0x9e3779b97f4a7c15U;  // splitmix64
    value_ = (value_ ^ (value_ >> 30)) * 0xbf58476d1ce4e5b9U;
    value_ = (value_ ^ (value_ >> 27)) * 0x94d049bb133111ebU;
    value_ ^= value_ >> 31;
    return *this;
  }

  /// By its bits: zeros of either sign differ, and a NaN is equal to itself.
  constexpr Fingerprint& add(double value) noexcept { return add(std::bit_cast<std::uint64_t>(value)); }

  constexpr Fingerprint& add(std::string_view text) noexcept {
    add(std::uint64_t{text.size()});
    for (std::size_t i = 0; i < text.size(); i += 8) {
      std::uint64_t letters = 0;
      for (const char letter : text.substr(i, 8)) letters = letters << 8 | static_cast<unsigned char>(letter);
      add(letters);
    }
    return *this;
  }

  constexpr std::uint64_t value() const noexcept { return value_; }

  /// To be added over ranks, up to 2^31 of them, for `agree`.
  constexpr Summands summands() const noexcept {
    const std::array<std::uint32_t, 4> words = philox(value_, 0, 0);
    return {std::int64_t{words[0]}, std::int64_t{words[1]}, std::int64_t{words[2]}};
  }

  /// Whether all of `ranks` ranks have this fingerprint. Where they have not, every rank finds out: that its own
  /// summands are the means of all three sums has a probability of less than 2^-64.
  /// @param sums Of the summands of all ranks.
  constexpr bool agree(std::span<const std::int64_t, summand_count> sums, std::int64_t ranks) const noexcept {
    const Summands own = summands();
    for (std::size_t i = 0; i < summand_count; ++i) {
      if (sums[i] != ranks * own[i]) return false;
    }
    return true;
  }

 private:
  std::uint64_t value_ = 0;
};

}  // namespace zerospan::inline v0::detail
