/// @file
/// PathMemory: the paths that passes have taken, and which one comes next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/interval_plan.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// A pass that is known, planned.
struct Path {
  std::uint8_t pass;
  Trace trace;
  IntervalPlan plan;
  const Path* successor = nullptr;  ///< The path that followed it the last time.
};

/// A model that alternates between a few paths keeps each of them: after a path comes the one that came after it
/// the last time. The least recently taken one is forgotten first.
class PathMemory {
 public:
  static constexpr std::size_t max_paths = 16;

  /// The path that the next pass of this kind will probably take; nullptr if there was none yet.
  /// Valid until the next call of `learn`.
  const Path* expected(std::uint8_t pass) const {
    const auto last = last_.find(pass);
    if (last != last_.end()) return last->second->successor ? last->second->successor : last->second;
    const auto any = std::ranges::find(paths_, pass, &Path::pass);
    return any != paths_.end() ? &*any : nullptr;
  }

  /// A path of this kind that begins with all events of `begun`. Where it has placed the buffers in use is where they
  /// are, if the pass has followed a path so far: paths that begin alike agree on it.
  const Path* continuation(std::uint8_t pass, const Trace& begun) const {
    const auto path = std::ranges::find_if(
        paths_, [&](const Path& p) { return p.pass == pass && p.trace.common_events(begun) == begun.events.size(); });
    return path != paths_.end() ? &*path : nullptr;
  }

  /// Bytes that the known paths need without any look-ahead.
  std::size_t needed() const {
    std::size_t most = 0;
    for (const Path& path : paths_) most = std::max(most, path.plan.needed());
    return most;
  }

  /// Takes note of a pass that has ended with every buffer released.
  void learn(std::uint8_t pass, Trace trace, std::size_t capacity, std::size_t look_ahead) {
    auto path = std::ranges::find_if(paths_, [&](const Path& p) { return p.pass == pass && p.trace.same_path(trace); });
    if (path == paths_.end()) {
      IntervalPlan plan{trace, capacity, look_ahead, shared_places(pass, trace), needed()};
      paths_.push_front({pass, std::move(trace), std::move(plan)});
    } else {
      paths_.splice(paths_.begin(), paths_, path);
    }
    Path& newest = paths_.front();
    Path*& last = last_[pass];
    if (last) last->successor = &newest;
    last = &newest;
    if (paths_.size() > max_paths) forget_oldest();
  }

 private:
  /// The places of the uses that the trace has in common with the path that it follows the longest.
  std::span<const IntervalPlan::Slot> shared_places(std::uint8_t pass, const Trace& trace) const {
    std::span<const IntervalPlan::Slot> longest;
    for (const Path& path : paths_) {
      if (path.pass != pass) continue;
      const std::size_t uses = trace.uses_within(trace.common_events(path.trace));
      if (uses > longest.size()) longest = path.plan.first(uses);
    }
    return longest;
  }

  void forget_oldest() {
    const Path& oldest = paths_.back();
    for (Path& path : paths_) {
      if (path.successor == &oldest) path.successor = nullptr;
    }
    std::erase_if(last_, [&](const auto& entry) { return entry.second == &oldest; });
    paths_.pop_back();
  }

  std::list<Path> paths_;
  std::map<std::uint8_t, Path*> last_;
};

}  // namespace zerospan::inline v0::detail
