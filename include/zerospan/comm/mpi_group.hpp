/// @file
/// The ranks that meet in a channel, of all those of a link.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include <zerospan/comm/mpi_link.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Some ranks of a link, this one among them, numbered anew from 0.
class MpiGroup {
 public:
  /// All ranks, as they are.
  explicit MpiGroup(MpiLink& link) : MpiGroup{link, all_of(link)} {}

  /// @param ranks Of the link, in the order of their new numbers.
  MpiGroup(MpiLink& link, std::vector<int> ranks)
      : link_{&link},
        ranks_{std::move(ranks)},
        me_{static_cast<int>(std::ranges::find(ranks_, link.rank()) - ranks_.begin())} {}

  MpiLink& link() const noexcept { return *link_; }
  int rank() const noexcept { return me_; }
  int size() const noexcept { return static_cast<int>(ranks_.size()); }

  /// What the link calls a member, and messages to people.
  int in_link(int member) const noexcept { return ranks_[static_cast<std::size_t>(member)]; }

 private:
  static std::vector<int> all_of(const MpiLink& link) {
    std::vector<int> ranks(static_cast<std::size_t>(link.size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }

  MpiLink* link_;
  std::vector<int> ranks_;
  int me_;
};

}  // namespace zerospan::inline v0::detail
