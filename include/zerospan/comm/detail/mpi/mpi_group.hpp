/// @file
/// The ranks that meet in a channel, of all those of a link.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_link.hpp>
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

  /// Calls `act(to, from)` for every distance: to which member this one sends, from which it receives.
  template <class Act>
  void for_each_distance(Act act) const {
    for (int i = 1; i < size(); ++i) act(sends_to(i), receives_from(i));
  }

  /// Calls `send(to)` and `receive(from)` for distances, all sends first: before it sends what is large, MPI asks the
  /// receiver, whose answer over TCP goes behind all data that it has been asked for itself. Two ranks that ask each
  /// other before either answers send at once, others one after the other.
  template <class Send, class Receive>
  void exchange(Send send, Receive receive, int first = 1, int last = std::numeric_limits<int>::max()) const {
    const int end = std::min(last, size() - 1) + 1;
    for (int i = first; i < end; ++i) send(sends_to(i));
    for (int i = first; i < end; ++i) receive(receives_from(i));
  }

 private:
  int sends_to(int distance) const noexcept { return (me_ + distance) % size(); }
  int receives_from(int distance) const noexcept { return (me_ + size() - distance) % size(); }

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
