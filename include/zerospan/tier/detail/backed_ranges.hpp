/// @file
/// BackedRanges: which ranges of a tier are in files of others, or zeros that nobody wrote.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/file_backed_extents.hpp>

namespace zerospan::inline v0::detail {

/// A set of ranges, each of which is bytes of a file and then zeros; or zeros alone. A file of which nothing is left
/// here is closed with its last user. Not synchronized.
class BackedRanges {
 public:
  /// @param end After `begin`. @param backing No longer than the range.
  void assign(std::uint64_t begin, std::uint64_t end, BackedBytes backing) {
    erase(begin, end);
    runs_.emplace(begin, Run{end, std::move(backing)});
  }

  void erase(std::uint64_t begin, std::uint64_t end) {
    cut(begin);
    cut(end);
    runs_.erase(runs_.lower_bound(begin), runs_.lower_bound(end));
  }

  /// Goes through [begin, end) in order: calls `backed(from, to, backing)` for each range of the set, as far as it is
  /// there, and `other(from, to)` for what is in none.
  template <class Backed, class Other>
  void visit(std::uint64_t begin, std::uint64_t end, Backed backed, Other other) const {
    auto next = runs_.upper_bound(begin);
    if (next != runs_.begin() && std::prev(next)->second.end > begin) --next;
    for (; next != runs_.end() && next->first < end; ++next) {
      const std::uint64_t from = std::max(begin, next->first);
      const std::uint64_t to = std::min(end, next->second.end);
      if (begin < from) other(begin, from);
      backed(from, to, part(next->second.backing, from - next->first, to - from));
      begin = to;
    }
    if (begin < end) other(begin, end);
  }

 private:
  struct Run {
    std::uint64_t end;
    BackedBytes backing;
  };

  /// What bytes [first, first + count) of a range are.
  static BackedBytes part(const BackedBytes& whole, std::uint64_t first, std::uint64_t count) {
    if (first >= whole.bytes) return {};
    return {whole.file, whole.offset + first, static_cast<std::size_t>(std::min(count, whole.bytes - first))};
  }

  /// Makes a run begin there, if one goes on there.
  void cut(std::uint64_t offset) {
    const auto next = runs_.lower_bound(offset);
    if (next == runs_.begin()) return;
    const auto found = std::prev(next);
    const std::uint64_t end = found->second.end;
    if (end <= offset) return;
    runs_.emplace_hint(next, offset, Run{end, part(found->second.backing, offset - found->first, end - offset)});
    found->second = {offset, part(found->second.backing, 0, offset - found->first)};
  }

  std::map<std::uint64_t, Run> runs_;  // by their begins
};

}  // namespace zerospan::inline v0::detail
