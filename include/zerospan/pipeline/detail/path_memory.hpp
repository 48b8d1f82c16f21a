/// @file
/// PathMemory: the paths that passes have taken, and which one comes next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/interval_plan.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// A pass that is known.
class Path {
 public:
  Path(std::uint8_t kind_of_pass, Trace recorded)
      : pass{kind_of_pass},
        trace{std::move(recorded)},
        plan{IntervalPlan::recorded(trace)},
        by_key_(trace.uses.size()) {
    std::iota(by_key_.begin(), by_key_.end(), std::size_t{0});
    std::ranges::sort(by_key_, {}, [this](std::size_t use) { return std::pair{trace.uses[use].key, use}; });
  }

  /// The first use of a key from the use `first` on; `TraceUse::never` if there is none.
  std::size_t next_use(UseKey key, std::size_t first) const {
    const auto found = std::ranges::lower_bound(by_key_, std::pair{key, first}, {}, [this](std::size_t use) {
      return std::pair{trace.uses[use].key, use};
    });
    return found != by_key_.end() && trace.uses[*found].key == key ? *found : TraceUse::never;
  }

  /// Bytes of host memory that it takes.
  std::size_t memory_bytes() const {
    return trace.memory_bytes() + plan.size() * sizeof(IntervalPlan::Slot) + by_key_.size() * sizeof(std::size_t);
  }

  std::uint8_t pass;
  Trace trace;
  IntervalPlan plan;  ///< Until it is planned, what was recorded.
  bool is_planned = false;
  bool is_trial = false;                         ///< Planned when it was new, and not taken since.
  const Path* successor = nullptr;               ///< The path that followed it the last time.
  std::map<const Path*, std::size_t> in_common;  ///< Other paths of its kind of pass: the events that both begin with.

 private:
  std::vector<std::size_t> by_key_;  ///< Its uses, ordered by key.
};

/// A model that alternates between a few paths keeps each of them: after a path comes the one that came after it the
/// last time. The least recently taken one is forgotten first.
///
/// A path is planned when it is taken the second time; until then it is repeated as it was recorded. So that the second
/// step of training is prefetched already, a new path is planned at once, as a trial, as long as few such plans have
/// not paid off by being taken again: in a program whose every pass is new, planning soon costs nothing.
class PathMemory {
 public:
  static constexpr std::size_t max_paths = 16;

  /// Plans of new paths, of a kind of pass, that were not taken again.
  static constexpr std::size_t max_trials = 2;

  /// What all paths may take of host memory, if they are more than two.
  static constexpr std::size_t max_bytes = std::size_t{256} << 20U;

  /// @param gathers_ahead See `IntervalPlan::usual_gathers_ahead`.
  explicit PathMemory(std::size_t gathers_ahead) : gathers_ahead_{gathers_ahead} {}

  /// The path that the next pass of this kind will probably take; nullptr if there was none yet.
  /// Valid until the next call of `learn`.
  const Path* expected(std::uint8_t pass) const {
    const auto last = last_.find(pass);
    if (last != last_.end()) return last->second->successor ? last->second->successor : last->second;
    const auto any = std::ranges::find(paths_, pass, &Path::pass);
    return any != paths_.end() ? &*any : nullptr;
  }

  /// A path that begins with the first `events` events of `followed` and goes on in another way, with `next`. Where it
  /// has placed the buffers in use is where they are: paths that begin alike agree on it.
  const Path* continuation(const Path& followed, std::size_t events, const NextEvent& next) const {
    const auto path = std::ranges::find_if(paths_, [&](const Path& other) {
      const auto common = other.in_common.find(&followed);
      return common != other.in_common.end() && common->second >= events && other.trace.has(events, next);
    });
    return path != paths_.end() ? &*path : nullptr;
  }

  /// Bytes that the known paths need without any look-ahead.
  std::size_t needed() const noexcept { return needed_; }

  /// How many plans were made.
  std::uint64_t plans() const noexcept { return plans_; }

  /// Takes note of a pass that has ended with every buffer released.
  void learn(std::uint8_t pass, Trace trace, std::size_t capacity, std::size_t look_ahead) {
    auto path = std::ranges::find_if(paths_, [&](const Path& p) { return p.pass == pass && p.trace.same_path(trace); });
    if (path == paths_.end()) {
      add(pass, std::move(trace));
      if (trials_[pass] < max_trials) {
        plan(paths_.front(), capacity, look_ahead);
        paths_.front().is_trial = true;
        ++trials_[pass];
      }
    } else {
      paths_.splice(paths_.begin(), paths_, path);
      if (!path->is_planned) plan(*path, capacity, look_ahead);
      if (std::exchange(path->is_trial, false)) --trials_[pass];
    }
    Path& newest = paths_.front();
    Path*& last = last_[pass];
    if (last) last->successor = &newest;
    last = &newest;
    while (paths_.size() > max_paths || (paths_.size() > 2 && bytes_ > max_bytes)) forget_oldest();
  }

 private:
  void add(std::uint8_t pass, Trace trace) {
    Path& added = paths_.emplace_front(pass, std::move(trace));
    for (Path& other : paths_) {
      if (&other == &added || other.pass != pass) continue;
      const std::size_t events = added.trace.common_events(other.trace);
      added.in_common.emplace(&other, events);
      other.in_common.emplace(&added, events);
    }
    bytes_ += added.memory_bytes();
    needed_ = std::max(needed_, added.plan.needed());
  }

  void plan(Path& path, std::size_t capacity, std::size_t look_ahead) {
    path.plan = IntervalPlan{path.trace, capacity, look_ahead, shared_places(path), needed_, gathers_ahead_};
    path.is_planned = true;
    needed_ = std::max(needed_, path.plan.needed());
    ++plans_;
  }

  /// The places of the uses that the path has in common with the one that it follows the longest.
  static std::span<const IntervalPlan::Slot> shared_places(const Path& path) {
    std::span<const IntervalPlan::Slot> longest;
    for (const auto& [other, events] : path.in_common) {
      const std::size_t uses = path.trace.uses_within(events);
      if (uses > longest.size()) longest = other->plan.first(uses);
    }
    return longest;
  }

  void forget_oldest() {
    const Path& oldest = paths_.back();
    bytes_ -= oldest.memory_bytes();
    for (Path& path : paths_) {
      path.in_common.erase(&oldest);
      if (path.successor == &oldest) path.successor = nullptr;
    }
    std::erase_if(last_, [&](const auto& entry) { return entry.second == &oldest; });
    paths_.pop_back();
    needed_ = 0;
    for (const Path& path : paths_) needed_ = std::max(needed_, path.plan.needed());
  }

  std::list<Path> paths_;  ///< The latest first.
  std::map<std::uint8_t, Path*> last_;
  std::map<std::uint8_t, std::size_t> trials_;  ///< By kind of pass: plans of new paths that were not taken again.
  std::size_t needed_ = 0;
  std::size_t bytes_ = 0;
  std::size_t gathers_ahead_;
  std::uint64_t plans_ = 0;
};

}  // namespace zerospan::inline v0::detail
