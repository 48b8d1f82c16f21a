/// @file
/// PendingGathers: what was posted ahead of its use, or has stayed for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace zerospan::inline v0::detail {

/// A buffer that waits for its use.
struct PendingGather {
  std::size_t use;  ///< Of the expected path.
  UseKey key;
  std::size_t offset;
  std::size_t bytes;
  std::vector<Completion> ready;             ///< The ends of its gather, or of its last uses.
  std::size_t posted = TraceUse::never;      ///< How many events had happened when it was posted ahead.
  std::size_t stays_from = TraceUse::never;  ///< The use, of the pass, that it has stayed from.

  bool has_stayed() const noexcept { return stays_from != TraceUse::never; }
};

/// Buffers of working memory in the order of their uses. What is given up goes back to the memory. Calls take time
/// logarithmic in the number of buffers, those that give up or reassign several in proportion to them.
class PendingGathers {
 public:
  explicit PendingGathers(WorkingMemory& memory) noexcept : memory_{memory} {}
  PendingGathers(const PendingGathers&) = delete;
  PendingGathers& operator=(const PendingGathers&) = delete;

  /// Nothing waits for that use yet.
  void add(PendingGather gather) {
    posted_bytes_ += gather.has_stayed() ? 0 : gather.bytes;
    by_key_.emplace(gather.key, gather.use);
    const std::size_t use = gather.use;
    gathers_.emplace(use, std::move(gather));
  }

  bool empty() const noexcept { return gathers_.empty(); }
  bool contains(std::size_t use) const { return gathers_.contains(use); }

  /// Takes out the buffer of a use.
  std::optional<PendingGather> take(std::size_t use) {
    const auto found = gathers_.find(use);
    return found != gathers_.end() ? std::optional{take_at(found)} : std::nullopt;
  }

  /// Takes out the first buffer of a key.
  std::optional<PendingGather> take(UseKey key) {
    const auto found = by_key_.lower_bound({key, 0});
    if (found == by_key_.end() || found->first != key) return std::nullopt;
    return take_at(gathers_.find(found->second));
  }

  /// Gives up a buffer that was taken out.
  void give_up(PendingGather gather) {
    if (!gather.has_stayed()) ++dropped_;
    memory_.give_back(gather.offset, std::move(gather.ready));
  }

  /// Gives up the buffer whose use is the farthest.
  void give_up_farthest() { give_up(take_at(std::prev(gathers_.end()))); }

  /// Gives up the buffers of uses before `use`.
  void give_up_before(std::size_t use) {
    while (!gathers_.empty() && gathers_.begin()->first < use) give_up(take_at(gathers_.begin()));
  }

  void give_up_all() { give_up_before(TraceUse::never); }

  /// Reassigns each buffer, in the order of their uses. @param use_of Called as `use_of(gather)`; returns its new use,
  /// or `TraceUse::never`: it is given up.
  template <class UseOf>
  void reassign(UseOf use_of) {
    Gathers former = std::exchange(gathers_, {});
    by_key_.clear();
    posted_bytes_ = 0;
    for (auto& entry : former) {
      PendingGather& gather = entry.second;
      gather.use = use_of(std::as_const(gather));
      if (gather.use == TraceUse::never) {
        give_up(std::move(gather));
      } else {
        add(std::move(gather));
      }
    }
  }

  /// Bytes that were posted ahead.
  std::size_t posted_bytes() const noexcept { return posted_bytes_; }

  /// How many were posted ahead and given up.
  std::uint64_t dropped() const noexcept { return dropped_; }

 private:
  using Gathers = std::map<std::size_t, PendingGather>;  // by use

  PendingGather take_at(Gathers::iterator found) {
    PendingGather gather = std::move(found->second);
    gathers_.erase(found);
    by_key_.erase({gather.key, gather.use});
    posted_bytes_ -= gather.has_stayed() ? 0 : gather.bytes;
    return gather;
  }

  WorkingMemory& memory_;
  Gathers gathers_;
  std::set<std::pair<UseKey, std::size_t>> by_key_;
  std::size_t posted_bytes_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace zerospan::inline v0::detail
