/// @file
/// Headroom: how much memory is left at each of a sequence of moments.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Bytes that are free at moments 0, 1, ... (negative where more is taken than there is). Ranges of moments are asked
/// and taken from in time logarithmic in the number of moments: a tree over them, each node of which knows the least
/// beneath it.
class Headroom {
 public:
  explicit Headroom(const std::vector<std::ptrdiff_t>& free)
      : leaves_{std::bit_ceil(free.size())}, nodes_(2 * leaves_) {
    for (std::size_t moment = 0; moment < free.size(); ++moment) nodes_[leaves_ + moment].least = free[moment];
    for (std::size_t node = leaves_; node-- > 1;) update(node);
  }

  /// Takes `bytes` from each moment of [first, end), if all of them have so many. @return Whether they had.
  bool take(std::size_t first, std::size_t end, std::size_t bytes) {
    const auto wanted = static_cast<std::ptrdiff_t>(bytes);
    if (first >= end) return true;
    if (least({1, 0, leaves_}, first, end) < wanted) return false;
    take_below({1, 0, leaves_}, first, end, wanted);
    return true;
  }

 private:
  struct Node {
    std::ptrdiff_t least = 0;  ///< Beneath it, with what was taken from it as a whole.
    std::ptrdiff_t taken = 0;  ///< From all moments beneath it.
  };

  /// A node, and the moments beneath it.
  struct Place {
    std::size_t node, begin, end;

    std::size_t middle() const noexcept { return (begin + end) / 2; }
    Place lower() const noexcept { return {2 * node, begin, middle()}; }
    Place upper() const noexcept { return {2 * node + 1, middle(), end}; }
    bool is_within(std::size_t first, std::size_t last) const noexcept { return first <= begin && end <= last; }
  };

  std::ptrdiff_t least(const Place& at, std::size_t first, std::size_t end) const {
    if (at.is_within(first, end)) return nodes_[at.node].least;
    const std::ptrdiff_t taken = nodes_[at.node].taken;
    if (end <= at.middle()) return least(at.lower(), first, end) - taken;
    if (first >= at.middle()) return least(at.upper(), first, end) - taken;
    return std::min(least(at.lower(), first, end), least(at.upper(), first, end)) - taken;
  }

  void take_below(const Place& at, std::size_t first, std::size_t end, std::ptrdiff_t bytes) {
    if (at.is_within(first, end)) {
      nodes_[at.node].least -= bytes;
      nodes_[at.node].taken += bytes;
      return;
    }
    if (first < at.middle()) take_below(at.lower(), first, end, bytes);
    if (end > at.middle()) take_below(at.upper(), first, end, bytes);
    update(at.node);
  }

  void update(std::size_t node) {
    nodes_[node].least = std::min(nodes_[2 * node].least, nodes_[2 * node + 1].least) - nodes_[node].taken;
  }

  std::size_t leaves_;
  std::vector<Node> nodes_;  ///< The root is 1, those beneath n are 2n and 2n + 1, the leaves come last.
};

}  // namespace zerospan::inline v0::detail
