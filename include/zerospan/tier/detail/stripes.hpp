/// @file
/// Stripes: how a range of bytes is dealt over several tiers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// An unbounded range of bytes, dealt over members in rounds: in each round, each member in turn gets one run of as
/// many stripes as its weight says (weights are divided by their greatest common divisor).
class Stripes {
 public:
  /// A part of the range that one member has in one piece.
  struct Piece {
    std::size_t member;
    std::uint64_t begin;
    std::size_t bytes;
  };

  /// @param weights One for each member, all positive.
  /// @param stripe Positive.
  Stripes(std::vector<std::size_t> weights, std::size_t stripe) : runs_{std::move(weights)} {
    const std::size_t divisor = std::accumulate(runs_.begin(), runs_.end(), std::size_t{0},
                                                [](std::size_t a, std::size_t b) { return std::gcd(a, b); });
    for (std::size_t& run : runs_) {
      run = run / divisor * stripe;
      round_ += run;
    }
  }

  std::size_t members() const noexcept { return runs_.size(); }

  /// How many bytes of a range the member has.
  std::size_t share(std::size_t member, std::uint64_t begin, std::size_t bytes) const noexcept {
    return static_cast<std::size_t>(share_before(member, begin + bytes) - share_before(member, begin));
  }

  /// The first piece of a range that is not empty.
  Piece first_piece(std::uint64_t begin, std::size_t bytes) const noexcept {
    if (members() == 1) return {0, begin, bytes};
    std::uint64_t within = begin % round_;
    std::size_t member = 0;
    while (within >= runs_[member]) within -= runs_[member++];
    return {member, begin, static_cast<std::size_t>(std::min<std::uint64_t>(bytes, runs_[member] - within))};
  }

 private:
  /// How many of the first `end` bytes the member has.
  std::uint64_t share_before(std::size_t member, std::uint64_t end) const noexcept {
    std::uint64_t begin = 0;
    for (std::size_t i = 0; i < member; ++i) begin += runs_[i];
    const std::uint64_t rest = std::max(end % round_, begin) - begin;
    return end / round_ * runs_[member] + std::min<std::uint64_t>(rest, runs_[member]);
  }

  std::vector<std::size_t> runs_;  ///< Bytes of each member in a round.
  std::size_t round_ = 0;
};

}  // namespace zerospan::inline v0::detail
