/// @file
/// plan::predict: how long a step will take, and what it will wait for.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/plan/detail/critical_path.hpp>
#include <zerospan/plan/detail/rehearsal.hpp>
#include <zerospan/plan/detail/simulated_rank.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/planned_span.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/schedule.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::plan {

/// How long a track (the host, or a lane) works in a step.
struct TrackTime {
  std::string_view track;
  double busy;      ///< Seconds of a step.
  double critical;  ///< Those of them that the step waits for.
};

/// Operations of one kind on one track, as far as a step waits for them.
struct CriticalPart {
  std::string_view track;
  OperationKind kind;
  double seconds;
};

struct Prediction {
  double step_seconds;                 ///< From the beginning of a step to that of the next, in the middle of training.
  std::vector<TrackTime> tracks;       ///< The host and its stream first, then the lanes.
  std::vector<CriticalPart> critical;  ///< What a step's time is made of, the longest first: together it is all of it.
  std::vector<PlannedSpan> spans;      ///< All that the first rank does in the step, by their begins.
  std::vector<PlannedSpan> critical_path;  ///< Those that the step waits for, one after the other, from its beginning
                                           ///< to its end. @see TrackTime

  /// What the step waits for the longest: "all-gather on communicate (gg)".
  std::string bottleneck() const {
    if (critical.empty()) return "nothing";
    return std::string{to_string(critical.front().kind)} + " on " + std::string{critical.front().track};
  }
};

/// The time of a step of a model on a cluster, made by the engine that would train it, in virtual time. Ranks that are
/// equals are simulated once.
/// @param topology Of as many ranks as the setting has. @param steps The first ones learn; the times are those of the
/// last, on the first rank. At least 2.
/// @throws BudgetError for what does not fit, as training would; ConfigurationError for what contradicts itself.
inline Prediction predict(const Model& model, const Setting& setting, const sim::Topology& topology,
                          std::size_t steps = 4) {
  detail::check_rank(setting, Rank{});
  if (topology.ranks() != setting.ranks) {
    throw_configuration_error("a setting of " + std::to_string(setting.ranks) + " ranks on a cluster of " +
                              std::to_string(topology.ranks()));
  }
  steps = std::max<std::size_t>(steps, 2);
  return detail::with_device(setting, [&]<sim::DeviceMemory Where>() {
    sim::Cluster cluster{topology, detail::equals_of(setting)};
    for (const Rank rank : cluster.ranks()) {
      detail::SimulatedRank<Where> machine{cluster, setting, rank};
      detail::rehearse(model, setting, machine, steps, [&](const detail::Rehearsed&) { machine.mark(); });
    }
    const sim::Schedule schedule = cluster.resolve();
    const auto items = detail::SimulatedRank<Where>::items(schedule, cluster.ranks().front());
    const auto [from, to] = detail::last_step(items);
    Prediction result{items[to].end - items[from].end, {}, {}, {}, {}};
    std::map<std::string_view, double> busy;
    const auto add = [&](std::vector<PlannedSpan>& spans, const detail::TimedItem& item, double begin, double end) {
      const double since = items[from].end;
      spans.push_back({item.track, item.kind, std::string{item.name}, item.bytes, begin - since, end - since});
    };
    for (const detail::TimedItem& item : items) {
      const double begin = std::max(item.begin, items[from].end);
      const double end = std::min(item.end, items[to].end);
      if (begin >= end) continue;
      add(result.spans, item, begin, end);
      if (item.kind != OperationKind::wait) busy[item.track] += end - begin;
    }
    std::ranges::stable_sort(result.spans, {}, &PlannedSpan::begin);
    std::map<std::pair<std::string_view, OperationKind>, double> critical;
    for (const detail::PathPart& part : detail::critical_path(items, from, to)) {
      const detail::TimedItem& item = items[part.item];
      add(result.critical_path, item, part.begin, part.end);
      critical[{item.track, item.kind}] += part.end - part.begin;
    }
    for (const auto& [key, seconds] : critical) result.critical.push_back({key.first, key.second, seconds});
    std::ranges::stable_sort(result.critical, std::ranges::greater{}, &CriticalPart::seconds);
    for (const std::string_view track : detail::SimulatedRank<Where>::tracks()) {
      TrackTime time{track, 0, 0};
      if (const auto found = busy.find(track); found != busy.end()) time.busy = found->second;
      for (const CriticalPart& part : result.critical) time.critical += part.track == track ? part.seconds : 0;
      result.tracks.push_back(time);
    }
    return result;
  });
}

}  // namespace zerospan::inline v0::plan
