/// @file
/// Timeline: what every lane of every rank did, and when.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// One thing that one track of one rank did. Times are nanoseconds since the timeline was made.
struct Span {
  Rank rank;
  std::string_view track;  ///< Static text: a lane's name, or the host's.
  std::string_view kind;   ///< Static text: "all-gather", "update", "compute".
  std::string name;
  std::size_t bytes;
  std::int64_t begin;
  std::int64_t end;
};

struct TimelineOptions {
  std::size_t max_spans = std::size_t{1} << 16;  ///< The latest are kept.
};

/// Collects spans of any number of ranks. The spans of one track do not overlap: a transfer that was queued behind
/// another begins, for the timeline, when that one ends.
///
/// @note Thread-safe. Nothing is recorded, and nothing is paid, where an engine is given no timeline.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Timeline(TimelineOptions options = {}) : options_{options} {}

  void record(Rank rank, std::string_view track, std::string_view kind, std::string_view name, std::size_t bytes,
              Clock::time_point begin, Clock::time_point end) {
    const std::scoped_lock lock{mutex_};
    std::int64_t& last_end = last_end_[{rank.value, track}];
    const std::int64_t to = std::max(nanoseconds(end), last_end);
    const std::int64_t from = std::clamp(nanoseconds(begin), last_end, to);
    last_end = to;
    if (spans_.size() >= options_.max_spans) spans_.pop_front();
    spans_.push_back({rank, track, kind, std::string{name}, bytes, from, to});
  }

  /// A copy of the latest spans, in the order in which they ended.
  std::vector<Span> spans() const {
    const std::scoped_lock lock{mutex_};
    return {spans_.begin(), spans_.end()};
  }

  /// When a moment is, as spans tell it.
  std::int64_t nanoseconds(Clock::time_point time) const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time - origin_).count();
  }

 private:
  const TimelineOptions options_;
  const Clock::time_point origin_ = Clock::now();
  mutable std::mutex mutex_;
  std::map<std::pair<int, std::string_view>, std::int64_t> last_end_;
  std::deque<Span> spans_;
};

}  // namespace zerospan::inline v0
