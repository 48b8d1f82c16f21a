/// @file
/// What a step waits for: from its end back through what ended when the next began.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::plan::detail {

/// One thing that a rank has done in virtual time; they are in the order in which they were posted.
struct TimedItem {
  std::string_view track;  ///< The host's, or a lane's.
  OperationKind kind;
  std::string_view name;
  std::size_t bytes;
  double begin;
  double end;
  bool is_mark = false;  ///< The host has come to the end of a step.
};

/// The last two marks. There are at least two.
inline std::pair<std::size_t, std::size_t> last_step(const std::vector<TimedItem>& items) {
  std::size_t from = 0;
  std::size_t to = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].is_mark) from = std::exchange(to, i);
  }
  return {from, to};
}

/// An item as far as a step waits for it.
struct PathPart {
  std::size_t item;
  double begin;
  double end;
};

/// Finds what ended at a time.
class Ends {
 public:
  explicit Ends(const std::vector<TimedItem>& items) : items_{items} {
    for (std::size_t i = 0; i < items.size(); ++i) at_.emplace(items[i].end, i);
  }

  /// What item `i` has waited for, by preference what comes before it on its own track: nothing, if it has waited for
  /// nothing that was posted before it.
  std::optional<std::size_t> cause(std::size_t i) const {
    const bool is_wait = items_[i].kind == OperationKind::wait;
    const double time = is_wait ? items_[i].end : items_[i].begin;
    std::optional<std::size_t> found;
    for (auto [at, end] = at_.equal_range(time); at != end; ++at) {
      const std::size_t other = at->second;
      if (other >= i) continue;
      const bool is_own = items_[other].track == items_[i].track;
      if (is_wait && is_own && items_[i].end > items_[i].begin) continue;  // it waited for somebody else
      if (!found || is_better(other, *found, i)) found = other;
    }
    return found ? found : nearest(i, time);
  }

 private:
  /// Where nothing ended just then: what goes on before it on its track, as transfers whose latencies overlap; or what
  /// ended last.
  std::optional<std::size_t> nearest(std::size_t i, double time) const {
    for (std::size_t other = i; other-- > 0 && items_[other].begin < time;) {
      if (items_[other].track == items_[i].track && items_[other].end > time) return other;
    }
    for (auto at = at_.lower_bound(time); at != at_.begin();) {
      --at;
      if (at->second < i) return at->second;
    }
    return std::nullopt;
  }

  /// What has taken time explains more than what has taken none, then what is on the same track, then what is later.
  bool is_better(std::size_t one, std::size_t other, std::size_t of) const {
    const auto rank = [&](std::size_t i) {
      const TimedItem& item = items_[i];
      const bool takes_time = item.end > item.begin && item.kind != OperationKind::wait;
      return std::pair{2 * int{takes_time && item.track == items_[of].track} + int{takes_time}, i};
    };
    return rank(one) > rank(other);
  }

  const std::vector<TimedItem>& items_;
  std::multimap<double, std::size_t> at_;
};

/// What makes a step as long as it is, part by part, from its begin to its end.
/// @param from, to The marks before and after the step.
inline std::vector<PathPart> critical_path(const std::vector<TimedItem>& items, std::size_t from, std::size_t to) {
  const double begin = items[from].end;
  const Ends ends{items};
  std::vector<PathPart> path;
  double until = items[to].end;
  for (std::optional<std::size_t> at = to; at && until > begin; at = ends.cause(*at)) {
    const TimedItem& item = items[*at];
    if (item.kind == OperationKind::wait || item.end <= item.begin) continue;
    const double since = std::max(item.begin, begin);
    if (since < until) path.push_back({*at, since, until});
    until = std::min(until, item.begin);
  }
  std::ranges::reverse(path);
  return path;
}

}  // namespace zerospan::inline v0::plan::detail
