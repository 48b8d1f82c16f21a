/// @file
/// Where the time of steps goes, by the timeline: how busy each part of the machine is, and which transfers are hidden.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/engine/outcome.hpp>

#include "figures.hpp"

namespace gpt {

/// From when to when, in nanoseconds of a timeline.
struct TimeInterval {
  std::int64_t begin;
  std::int64_t end;
};

/// A part of the machine, and the share of the steps' time in which it did something.
struct PartOfMachine {
  std::string_view what;
  double share;
};

/// Of the steps that the timeline still has as a whole. A collective begins when the last rank has come to it.
struct StepTime {
  std::size_t steps = 0;
  double seconds = 0;                  ///< Of all of them together.
  std::vector<PartOfMachine> parts{};  ///< The busiest first: that is the bottleneck.
  double peers_share = 0;              ///< Of the steps' time: what collectives have waited for other ranks.
  double hidden_share = 1;             ///< Of the time of transfers: what the host did not wait meanwhile.
};

/// Under which ranks a timeline has what one rank does.
struct RanksOfTimeline {
  zerospan::Rank engine;
  zerospan::Rank checkpoints;           ///< Of activations, which have lanes of their own.
  std::vector<zerospan::Rank> peers{};  ///< The other engines that it has collectives with, if they have this timeline.
};

namespace detail {

/// Intervals of time, in their order; what overlaps is joined.
class TimeIntervals {
 public:
  explicit TimeIntervals(std::vector<TimeInterval> any = {}) {
    std::ranges::sort(any, {}, &TimeInterval::begin);
    for (const TimeInterval& each : any) {
      if (each.end <= each.begin) continue;
      if (!joined_.empty() && each.begin <= joined_.back().end) {
        joined_.back().end = std::max(joined_.back().end, each.end);
      } else {
        joined_.push_back(each);
      }
    }
  }

  /// What an interval has in common with them.
  std::vector<TimeInterval> within(const TimeInterval& interval) const {
    std::vector<TimeInterval> common;
    auto each = std::ranges::upper_bound(joined_, interval.begin, {}, &TimeInterval::end);
    for (; each != joined_.end() && each->begin < interval.end; ++each) {
      common.push_back({std::max(each->begin, interval.begin), std::min(each->end, interval.end)});
    }
    return common;
  }

  double seconds() const { return seconds_of(joined_); }

  /// How long both last.
  double seconds_with(const TimeIntervals& other) const {
    double sum = 0;
    for (const TimeInterval& each : joined_) sum += seconds_of(other.within(each));
    return sum;
  }

 private:
  static double seconds_of(std::span<const TimeInterval> intervals) {
    double sum = 0;
    for (const TimeInterval& each : intervals) sum += 1e-9 * static_cast<double>(each.end - each.begin);
    return sum;
  }

  std::vector<TimeInterval> joined_;
};

inline bool is_transfer(std::string_view kind) {
  return std::ranges::any_of(zerospan::Statistics::transfers,
                             [kind](zerospan::OperationKind transfer) { return kind == to_string(transfer); });
}

/// The collectives of other ranks.
class PeerCalls {
 public:
  PeerCalls(std::span<const zerospan::Span> spans, std::span<const zerospan::Rank> peers) {
    for (const zerospan::Rank peer : peers) {
      std::vector<const zerospan::Span*>& calls = calls_.emplace_back();
      for (const zerospan::Span& span : spans) {
        if (span.rank == peer && span.track == lane_name(zerospan::Lane::communicate)) calls.push_back(&span);
      }
    }
  }

  /// When the last rank has come to a collective; its begin, where others are not known.
  std::int64_t begin_of(const zerospan::Span& call) const {
    std::int64_t begin = call.begin;
    for (const auto& calls : calls_) {  // of one lane: they end in the order in which they begin
      auto other = std::ranges::upper_bound(calls, call.begin, {}, &zerospan::Span::end);
      for (; other != calls.end() && (*other)->begin < call.end; ++other) {
        if ((*other)->kind == call.kind && (*other)->name == call.name) begin = std::max(begin, (*other)->begin);
      }
    }
    return begin;
  }

  static constexpr std::string_view lane_name(zerospan::Lane lane) {
    return zerospan::lane_names[static_cast<std::size_t>(lane)];
  }

 private:
  std::vector<std::vector<const zerospan::Span*>> calls_;
};

}  // namespace detail

/// @param spans The latest of a timeline, in the order in which they ended.
/// @param steps When steps were made, in their order. What is not in one of them does not count, nor does a step whose
/// first spans the timeline may have lost.
inline StepTime time_of_steps(std::span<const zerospan::Span> spans, const RanksOfTimeline& ranks,
                              std::vector<TimeInterval> steps) {
  if (spans.empty()) return {};
  std::erase_if(steps, [&](const TimeInterval& step) { return step.begin < spans.front().end; });
  const detail::TimeIntervals all{steps};
  const detail::PeerCalls peers{spans, ranks.peers};

  // What each lane keeps busy; of two that keep the same, it counts with the first.
  constexpr std::array<std::string_view, zerospan::lane_count> names{"disk read", "copies",  "communication",
                                                                     "disk read", "updates", "disk write"};
  std::array<std::vector<TimeInterval>, zerospan::lane_count> busy;
  std::vector<TimeInterval> computing;
  std::vector<TimeInterval> waiting;
  std::vector<TimeInterval> awaiting_peers;
  std::vector<TimeInterval> transfers;
  for (const zerospan::Span& span : spans) {
    if (span.rank != ranks.engine && span.rank != ranks.checkpoints) continue;
    const bool is_collective = span.track == detail::PeerCalls::lane_name(zerospan::Lane::communicate);
    const std::int64_t begin = is_collective ? peers.begin_of(span) : span.begin;
    const auto add = [&all](TimeInterval interval, std::vector<TimeInterval>& to) {
      const std::vector<TimeInterval> in_steps = all.within(interval);
      to.insert(to.end(), in_steps.begin(), in_steps.end());
    };
    const auto add_to = [&](std::vector<TimeInterval>& to) { add({begin, span.end}, to); };
    add({span.begin, begin}, awaiting_peers);
    const auto lane = std::ranges::find(zerospan::lane_names, span.track);
    if (lane != zerospan::lane_names.end()) {
      const auto what = std::ranges::find(names, names[static_cast<std::size_t>(lane - zerospan::lane_names.begin())]);
      add_to(busy[static_cast<std::size_t>(what - names.begin())]);
    } else if (span.kind == to_string(zerospan::OperationKind::wait)) {
      add_to(waiting);
    } else if (span.rank == ranks.engine && span.kind == to_string(zerospan::OperationKind::compute)) {
      add_to(computing);
    }
    if (detail::is_transfer(span.kind)) add_to(transfers);
  }

  StepTime time{.steps = steps.size(), .seconds = all.seconds()};
  if (time.seconds <= 0) return {};
  const detail::TimeIntervals waits{std::move(waiting)};
  const detail::TimeIntervals compute{std::move(computing)};
  time.parts.push_back({"compute", (compute.seconds() - compute.seconds_with(waits)) / time.seconds});
  for (std::size_t i = 0; i < busy.size(); ++i) {
    const double seconds = detail::TimeIntervals{std::move(busy[i])}.seconds();
    if (seconds > 0) time.parts.push_back({names[i], seconds / time.seconds});
  }
  std::ranges::stable_sort(time.parts, std::greater{}, &PartOfMachine::share);

  time.peers_share = detail::TimeIntervals{std::move(awaiting_peers)}.seconds() / time.seconds;
  double transferred = 0;  // of each transfer alone: several may be under way at once
  double exposed = 0;
  for (const TimeInterval& transfer : transfers) {
    const detail::TimeIntervals alone{{transfer}};
    transferred += alone.seconds();
    exposed += alone.seconds_with(waits);
  }
  time.hidden_share = hidden_share(transferred, exposed);
  return time;
}

}  // namespace gpt
