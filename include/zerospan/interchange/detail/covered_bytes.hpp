/// @file
/// CoveredBytes: which bytes of a file have been written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// A set of bytes, kept as the ranges that they form: one where they were added in order.
class CoveredBytes {
 public:
  /// @param begin No more than `end`. Bytes may be added again.
  void add(std::uint64_t begin, std::uint64_t end) {
    if (begin == end) return;
    auto next = ranges_.upper_bound(begin);
    if (next != ranges_.begin() && std::prev(next)->second >= begin) --next;
    while (next != ranges_.end() && next->first <= end) {
      begin = std::min(begin, next->first);
      end = std::max(end, next->second);
      count_ -= next->second - next->first;
      next = ranges_.erase(next);
    }
    ranges_.emplace_hint(next, begin, end);
    count_ += end - begin;
  }

  std::uint64_t count() const noexcept { return count_; }

  /// Whether all bytes from `begin` up to `end` are in the set.
  bool has(std::uint64_t begin, std::uint64_t end) const {
    if (begin == end) return true;
    const auto next = ranges_.upper_bound(begin);
    return next != ranges_.begin() && std::prev(next)->second >= end;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;  ///< Disjoint and not adjacent: the end by the begin.
  std::uint64_t count_ = 0;
};

}  // namespace zerospan::inline v0::detail
