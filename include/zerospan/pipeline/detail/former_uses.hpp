/// @file
/// FormerUses: what the next user of a range of memory must wait for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Remembers, for ranges that were given back in program order, the completions of their last uses. A call takes time
/// logarithmic in the number of ranges, and proportional to those that it overlaps.
class FormerUses {
 public:
  void record(std::size_t offset, std::size_t bytes, const Completion& last_use) {
    if (bytes == 0 || is_over(last_use)) return;
    const std::size_t end = offset + bytes;
    auto next = split_at(offset);
    split_at(end);
    for (std::size_t begin = offset; begin < end; begin = next->second.end, ++next) {
      if (next == ranges_.end() || next->first > begin) {
        const std::size_t gap_end = next == ranges_.end() ? end : std::min(end, next->first);
        next = ranges_.emplace_hint(next, begin, Range{gap_end, {}});
      }
      std::vector<Completion>& uses = next->second.last_uses;
      std::erase_if(uses, is_over);
      uses.push_back(last_use);
    }
  }

  /// Forgets the uses of [offset, offset + bytes), which is taken again. @return What its first use waits for.
  std::vector<Completion> overwrite(std::size_t offset, std::size_t bytes) {
    std::vector<Completion> after;
    if (bytes == 0) return after;
    const auto first = split_at(offset);
    const auto last = split_at(offset + bytes);
    for (auto range = first; range != last; ++range) {
      for (Completion& use : range->second.last_uses) {
        if (!is_over(use)) after.push_back(std::move(use));
      }
    }
    ranges_.erase(first, last);
    return after;
  }

 private:
  struct Range {
    std::size_t end;
    std::vector<Completion> last_uses;
  };
  using Ranges = std::map<std::size_t, Range>;  // by where they begin; disjoint

  /// A failure is passed on to whoever uses the range next.
  static bool is_over(const Completion& use) { return use.done() && !use.error(); }

  /// Makes no range lie across `offset`. @return The first range from there on.
  Ranges::iterator split_at(std::size_t offset) {
    const auto next = ranges_.lower_bound(offset);
    if (next == ranges_.begin()) return next;
    const auto before = std::prev(next);
    if (before->second.end <= offset) return next;
    Range upper = before->second;
    before->second.end = offset;
    return ranges_.emplace_hint(next, offset, std::move(upper));
  }

  Ranges ranges_;
};

}  // namespace zerospan::inline v0::detail
