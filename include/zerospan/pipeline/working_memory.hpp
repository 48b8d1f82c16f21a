/// @file
/// WorkingMemory: gathered parameters and gradients come and go in one range of memory, in program order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/pipeline/former_uses.hpp>

namespace zerospan::inline v0 {

/// Deals out ranges of an arena's working allocation. A range that is given back is free at once, in program order;
/// whoever gets it next is told which completions its first use must wait for. So nobody ever blocks on an allocation,
/// and addresses depend on the order of the calls alone.
class WorkingMemory {
 public:
  static constexpr std::size_t alignment = 64;

  /// @param arena Where what is in use is counted.
  WorkingMemory(Arena& arena, Allocation memory) : arena_{&arena}, memory_{std::move(memory)} {}

  std::size_t capacity() const noexcept { return memory_.bytes() / alignment * alignment; }
  std::byte* data(std::size_t offset) const noexcept { return memory_.data() + offset; }

  /// The lowest free offset that `bytes` fit at.
  std::optional<std::size_t> find(std::size_t bytes) const {
    std::size_t begin = 0;
    for (const auto& [offset, taken] : live_) {
      if (offset - begin >= bytes) return begin;
      begin = offset + taken;
    }
    return capacity() - begin >= bytes ? std::optional{begin} : std::nullopt;
  }

  /// The highest free offset that `bytes` fit at.
  std::optional<std::size_t> find_highest(std::size_t bytes) const {
    std::size_t end = capacity();
    for (auto range = live_.rbegin(); range != live_.rend(); ++range) {
      const auto [offset, taken] = *range;
      if (end - (offset + taken) >= bytes) return end - bytes;
      end = offset;
    }
    return end >= bytes ? std::optional{end - bytes} : std::nullopt;
  }

  /// Bytes of the largest free range.
  std::size_t largest_free() const {
    std::size_t largest = 0;
    std::size_t begin = 0;
    for (const auto& [offset, taken] : live_) {
      largest = std::max(largest, offset - begin);
      begin = offset + taken;
    }
    return std::max(largest, capacity() - begin);
  }

  /// Whether [offset, offset + bytes) is free.
  bool is_free(std::size_t offset, std::size_t bytes) const {
    if (offset + bytes > capacity()) return false;
    const auto next = live_.lower_bound(offset);
    if (next != live_.end() && next->first < offset + bytes) return false;
    return next == live_.begin() || std::prev(next)->first + std::prev(next)->second <= offset;
  }

  /// Takes a free range (a multiple of `alignment`). @return What its first use waits for.
  std::vector<Completion> take(std::size_t offset, std::size_t bytes) {
    live_.emplace(offset, bytes);
    arena_->charge({bytes});
    return former_.overwrite(offset, bytes);
  }

  /// Gives a range back; `last_uses` are the ends of what still uses it.
  void give_back(std::size_t offset, std::vector<Completion> last_uses) {
    const auto range = live_.find(offset);
    arena_->discharge({range->second});
    for (Completion& last_use : last_uses) former_.record(offset, range->second, std::move(last_use));
    live_.erase(range);
  }

 private:
  Arena* arena_;
  Allocation memory_;
  std::map<std::size_t, std::size_t> live_;  // offset -> bytes
  FormerUses former_;
};

}  // namespace zerospan::inline v0
