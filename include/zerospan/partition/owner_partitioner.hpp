/// @file
/// OwnerPartitioner: whole parameters, dealt to ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/bandwidth_partitioner.hpp>

namespace zerospan::inline v0 {

/// Owner-and-broadcast partitioning: every parameter rests whole with one rank, and gathering it is a broadcast. One
/// rank's links carry all of it while the others' idle: the baseline that slices beat by the number of ranks
/// (ZeRO-Infinity, arXiv 2104.07857, section 6.1).
class OwnerPartitioner {
 public:
  constexpr explicit OwnerPartitioner(std::size_t ranks) : elements_of_(ranks) {}

  /// Proposes the rank that owns the fewest elements; of several, the lowest.
  constexpr Partition deal(std::size_t elements) const {
    Partition whole = BandwidthPartitioner{1}.slice(elements);
    whole.owner = Rank{static_cast<int>(std::ranges::min_element(elements_of_) - elements_of_.begin())};
    return whole;
  }

  /// Counts what was dealt as its owner's.
  constexpr void keep(const Partition& dealt) noexcept {
    if (dealt.owner) elements_of_[static_cast<std::size_t>(dealt.owner->value)] += dealt.padded_elements();
  }

 private:
  std::vector<std::size_t> elements_of_;
};

}  // namespace zerospan::inline v0
