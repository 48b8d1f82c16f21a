/// @file
/// PendingGathers: what was posted ahead of its use, or has stayed for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
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
  std::vector<Completion> ready;  ///< The end of its gather, or of its last uses.
  bool has_stayed;                ///< Kept since its last use; otherwise posted ahead.
};

/// Buffers of working memory in the order of their uses. What is given up goes back to the memory.
class PendingGathers {
 public:
  explicit PendingGathers(WorkingMemory& memory) noexcept : memory_{memory} {}
  PendingGathers(const PendingGathers&) = delete;
  PendingGathers& operator=(const PendingGathers&) = delete;

  void add(PendingGather gather) {
    const auto next = std::ranges::upper_bound(gathers_, gather.use, {}, &PendingGather::use);
    gathers_.insert(next, std::move(gather));
  }

  bool empty() const noexcept { return gathers_.empty(); }
  bool contains(std::size_t use) const {
    return std::ranges::find(gathers_, use, &PendingGather::use) != gathers_.end();
  }

  /// Takes out the buffer of a use.
  std::optional<PendingGather> take(std::size_t use) {
    return take_at(std::ranges::find(gathers_, use, &PendingGather::use));
  }

  /// Takes out the first buffer of a key.
  std::optional<PendingGather> take(UseKey key) {
    return take_at(std::ranges::find(gathers_, key, &PendingGather::key));
  }

  void give_up(const PendingGather& gather) {
    memory_.give_back(gather.offset, gather.ready);
    if (!gather.has_stayed) ++dropped_;
  }

  /// Gives up the buffer whose use is the farthest.
  void give_up_farthest() {
    give_up(gathers_.back());
    gathers_.pop_back();
  }

  template <class Predicate>
  void give_up_unless(Predicate stays) {
    const auto first = std::stable_partition(gathers_.begin(), gathers_.end(), stays);
    std::for_each(first, gathers_.end(), [this](const PendingGather& gather) { give_up(gather); });
    gathers_.erase(first, gathers_.end());
  }

  void give_up_all() {
    give_up_unless([](const PendingGather&) { return false; });
  }

  /// Bytes that were posted ahead.
  std::size_t posted_bytes() const {
    std::size_t bytes = 0;
    for (const PendingGather& gather : gathers_) bytes += gather.has_stayed ? 0 : gather.bytes;
    return bytes;
  }

  /// How many were posted ahead and given up.
  std::uint64_t dropped() const noexcept { return dropped_; }

 private:
  std::optional<PendingGather> take_at(std::vector<PendingGather>::iterator found) {
    if (found == gathers_.end()) return std::nullopt;
    PendingGather gather = std::move(*found);
    gathers_.erase(found);
    return gather;
  }

  WorkingMemory& memory_;
  std::vector<PendingGather> gathers_;
  std::uint64_t dropped_ = 0;
};

}  // namespace zerospan::inline v0::detail
