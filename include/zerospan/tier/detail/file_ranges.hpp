/// @file
/// FileRanges: in which of several files the newest bytes of each range are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/detail/arena_file.hpp>

namespace zerospan::inline v0::detail {

/// Cuts the offsets from 0 on into runs, each of which is in one file, and has a checksum or none. A file of which
/// nothing is left here is closed with its last user. Not synchronized.
class FileRanges {
 public:
  using File = std::shared_ptr<ArenaFile>;

  struct Run {
    std::uint64_t end;
    File file;
    std::optional<std::uint64_t> checksum;  ///< Of all of the run.
  };

  /// @param end Of all ranges.
  FileRanges(File file, std::uint64_t end) { runs_.emplace(0, Run{end, std::move(file), std::nullopt}); }

  /// Calls `f(from, to, run)` for each run, as far as it is in [begin, end), in order.
  template <class F>
  void visit(std::uint64_t begin, std::uint64_t end, F f) const {
    for (auto next = holder(begin); next != runs_.end() && next->first < end; ++next) {
      f(std::max(begin, next->first), std::min(end, next->second.end), next->second);
    }
  }

  /// From now on [begin, end), which is not empty, is in `file`.
  void assign(std::uint64_t begin, std::uint64_t end, const File& file,
              std::optional<std::uint64_t> checksum = std::nullopt) {
    if (!checksum && is_plain(begin, end, file)) return;
    cut(begin);
    cut(end);
    auto next = runs_.erase(runs_.lower_bound(begin), runs_.lower_bound(end));
    if (!checksum) {  // it becomes one with its neighbours
      if (next != runs_.end() && continues(next->second, file)) {
        end = next->second.end;
        next = runs_.erase(next);
      }
      if (next != runs_.begin() && continues(std::prev(next)->second, file)) {
        std::prev(next)->second.end = end;
        return;
      }
    }
    runs_.emplace_hint(next, begin, Run{end, file, checksum});
  }

 private:
  using Runs = std::map<std::uint64_t, Run>;  // by their begins

  Runs::const_iterator holder(std::uint64_t offset) const { return std::prev(runs_.upper_bound(offset)); }

  static bool continues(const Run& run, const File& file) { return run.file == file && !run.checksum; }

  bool is_plain(std::uint64_t begin, std::uint64_t end, const File& file) const {
    const Run& run = holder(begin)->second;
    return continues(run, file) && run.end >= end;
  }

  /// Makes a run begin there. What is left of a run has no checksum.
  void cut(std::uint64_t offset) {
    const auto found = std::prev(runs_.upper_bound(offset));
    if (found->first == offset || offset >= found->second.end) return;
    found->second.checksum.reset();
    const std::uint64_t end = std::exchange(found->second.end, offset);
    runs_.emplace_hint(std::next(found), offset, Run{end, found->second.file, std::nullopt});
  }

  Runs runs_;
};

}  // namespace zerospan::inline v0::detail
