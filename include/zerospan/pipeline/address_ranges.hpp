/// @file
/// AddressRanges: disjoint ranges in use, and the gaps between them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

class AddressRanges {
 public:
  void insert(std::size_t offset, std::size_t bytes) { ranges_.emplace(offset, bytes); }
  void erase(std::size_t offset) { ranges_.erase(offset); }

  /// The lowest offset that `bytes` fit at, without any bound.
  std::size_t lowest(std::size_t bytes) const {
    std::size_t begin = 0;
    for (const auto& [offset, taken] : ranges_) {
      if (offset - begin >= bytes) return begin;
      begin = offset + taken;
    }
    return begin;
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

}  // namespace zerospan::inline v0
