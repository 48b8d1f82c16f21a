/// @file
/// AddressRanges: disjoint ranges in use, and the gaps between them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <optional>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

class AddressRanges {
 public:
  void insert(std::size_t offset, std::size_t bytes) { ranges_.emplace(offset, bytes); }

  /// @return The bytes of the range at `offset`, which is there.
  std::size_t erase(std::size_t offset) {
    const auto range = ranges_.find(offset);
    const std::size_t bytes = range->second;
    ranges_.erase(range);
    return bytes;
  }

  /// Whether no range overlaps [offset, offset + bytes).
  bool is_free(std::size_t offset, std::size_t bytes) const {
    const auto next = ranges_.lower_bound(offset);
    if (next != ranges_.end() && next->first < offset + bytes) return false;
    return next == ranges_.begin() || std::prev(next)->first + std::prev(next)->second <= offset;
  }

  /// The lowest offset that `bytes` fit at, without any bound.
  std::size_t lowest(std::size_t bytes) const {
    std::size_t begin = 0;
    for (const auto& [offset, taken] : ranges_) {
      if (offset - begin >= bytes) return begin;
      begin = offset + taken;
    }
    return begin;
  }

  /// The highest offset that `bytes` fit at below `capacity`.
  std::optional<std::size_t> highest(std::size_t bytes, std::size_t capacity) const {
    std::size_t end = capacity;
    for (auto range = ranges_.rbegin(); range != ranges_.rend(); ++range) {
      const auto [offset, taken] = *range;
      if (end - (offset + taken) >= bytes) return end - bytes;
      end = offset;
    }
    return end >= bytes ? std::optional{end - bytes} : std::nullopt;
  }

  /// The end of the highest range.
  std::size_t top() const noexcept { return ranges_.empty() ? 0 : ranges_.rbegin()->first + ranges_.rbegin()->second; }

  /// Bytes of the largest gap below `capacity`.
  std::size_t largest_gap(std::size_t capacity) const {
    std::size_t largest = 0;
    std::size_t begin = 0;
    for (const auto& [offset, taken] : ranges_) {
      largest = std::max(largest, offset - begin);
      begin = offset + taken;
    }
    return std::max(largest, capacity - std::min(capacity, begin));
  }

 private:
  std::map<std::size_t, std::size_t> ranges_;  // offset -> bytes
};

}  // namespace zerospan::inline v0::detail
