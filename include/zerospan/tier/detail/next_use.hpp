/// @file
/// Next use: what is predicted of reads, and which slots of a cache are kept by it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// When a line was read, in counts of reads, and when it should be read next. The intervals between reads are assumed
/// to alternate, so that both constant cycles and sweeps forward and backward are predicted exactly. What was read once
/// is overdue from then on: among such lines, those stay that were read last.
class UseHistory {
 public:
  static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

  void record(std::uint64_t time) noexcept { times_ = {time, times_[0], times_[1]}; }

  std::uint64_t last() const noexcept { return times_[0]; }

  /// `never` for what was not read yet.
  std::uint64_t next() const noexcept {
    const auto [last, second, third] = times_;
    if (second == never) return last;
    return last + (third == never ? last - second : second - third);
  }

 private:
  std::array<std::uint64_t, 3> times_{never, never, never};  // the latest first
};

/// The slots of a cache, kept by Belady's rule: a newcomer gets a free slot, or else the slot whose owner has the
/// latest next use, if that is later than the newcomer's. An owner whose predicted use has passed by n reads is
/// expected after n more. Memory is taken at the construction alone.
class NextUseSlots {
 public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  explicit NextUseSlots(std::size_t slots) : next_(slots, UseHistory::never), held_(slots), free_(slots) {
    for (std::size_t i = 0; i < slots; ++i) {
      held_[i] = order_.extract(order_.emplace(UseHistory::never, i).first);
      free_[i] = slots - 1 - i;
    }
  }

  std::size_t size() const noexcept { return next_.size(); }

  /// Takes a slot for a line whose next use is at `next`, and holds it; `none` if all others are used before that.
  std::size_t claim(std::uint64_t next, std::uint64_t now) noexcept {
    if (!free_.empty()) {
      const std::size_t slot = free_.back();
      free_.pop_back();
      return slot;
    }
    if (order_.empty()) return none;
    const auto first = order_.begin();
    const auto last = std::prev(order_.end());
    const auto farthest = expected(first->first, now) > expected(last->first, now) ? first : last;
    if (expected(farthest->first, now) <= expected(next, now)) return none;
    const std::size_t slot = farthest->second;
    held_[slot] = order_.extract(farthest);
    return slot;
  }

  /// Keeps a slot from being claimed.
  void hold(std::size_t slot) noexcept {
    const auto offered = order_.find({next_[slot], slot});
    if (offered != order_.end()) held_[slot] = order_.extract(offered);
  }

  /// Lets a slot that is held be claimed from its owner, whose next use is at `next`.
  void offer(std::size_t slot, std::uint64_t next) noexcept {
    next_[slot] = next;
    held_[slot].value() = {next, slot};
    order_.insert(std::move(held_[slot]));
  }

  /// Gives up a slot that is held.
  void release(std::size_t slot) noexcept { free_.push_back(slot); }

 private:
  static std::uint64_t expected(std::uint64_t next, std::uint64_t now) noexcept {
    return next < now ? now + (now - next) : next;
  }

  using Order = std::set<std::pair<std::uint64_t, std::size_t>>;

  std::vector<std::uint64_t> next_;     // by slot
  Order order_;                         // next use, slot: those that may be claimed
  std::vector<Order::node_type> held_;  // by slot: its place in `order_`, while it is not there
  std::vector<std::size_t> free_;
};

}  // namespace zerospan::inline v0::detail
