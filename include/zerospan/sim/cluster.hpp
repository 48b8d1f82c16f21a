/// @file
/// sim::Cluster: records what the ranks of a simulated cluster post, and resolves their clocks afterwards.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::sim {

/// A link in virtual time: a transfer of n bytes takes `latency + n / bytes_per_second`.
struct Link {
  double bytes_per_second;
  double latency = 0;

  double seconds(std::size_t bytes) const { return latency + static_cast<double>(bytes) / bytes_per_second; }
};

/// The speeds of one simulated rank; links to tiers belong to the tiers.
struct Rates {
  Link copy;     ///< Between host and device memory.
  Link network;  ///< Collectives.
  Link update;   ///< Optimizer, accumulation and fills, in bytes of their operands.
  double flops_per_second;
};

/// One thing that happened, in virtual seconds.
struct Event {
  Rank rank;
  std::string_view track;
  OperationKind kind;
  std::string name;
  std::size_t bytes;
  double begin;
  double end;
};

/// The simulated ranks. Each rank's program runs by itself, one after the other or on threads of their own; nothing
/// waits for anything, memory is never touched. Afterwards `resolve()` plays all recordings against each other: the
/// host's thread runs in program order, each lane in posting order, an operation begins when it was posted, its lane
/// is free and its predecessors have ended, and collectives begin together.
class Cluster {
 public:
  explicit Cluster(int ranks) : recordings_(static_cast<std::size_t>(ranks)) {}

  int size() const noexcept { return static_cast<int>(recordings_.size()); }

  /// Records an operation of a rank. `track` is a lane, or `host`. @return Its end.
  Completion record(Rank rank, std::size_t track, const Operation& operation, double seconds,
                    const std::vector<Completion>& after) {
    auto& recording = recordings_[static_cast<std::size_t>(rank.value)];
    Item item{track, operation.kind, std::string{operation.name}, operation.bytes, seconds, {}, {}};
    for (const Completion& completion : after) {
      if (completion.ticket() > 0) item.after.push_back(completion.ticket() - 1);
    }
    item.end = std::make_shared<Promise>(item.name, recording.size() + 1);
    recording.push_back(std::move(item));
    return recording.back().end->completion();
  }

  /// The track of the host's thread.
  static constexpr std::size_t host = lane_count;

  /// All events of all ranks, ordered by rank and posting.
  /// @throws DivergenceError if the ranks' sequences of collectives differ.
  std::vector<Event> resolve() const {
    std::vector<Clock> clocks(recordings_.size());
    std::vector<Event> events;
    bool all_ended = false;
    while (!all_ended) {
      all_ended = true;
      for (std::size_t r = 0; r < recordings_.size(); ++r) {
        advance(recordings_[r], clocks[r]);
        all_ended = all_ended && clocks[r].next == recordings_[r].size();
      }
      if (!all_ended) meet(clocks);
    }
    for (std::size_t r = 0; r < recordings_.size(); ++r) append(events, r, clocks[r]);
    return events;
  }

 private:
  struct Item {
    std::size_t track;
    OperationKind kind;
    std::string name;
    std::size_t bytes;
    double seconds;
    std::vector<std::uint64_t> after;  // indices of earlier items
    std::shared_ptr<Promise> end;      // kept, so that completions stay undone until the cluster goes
  };

  /// How far the resolution of one rank has come.
  struct Clock {
    std::size_t next = 0;
    std::array<double, lane_count + 1> free{};  // when each track is free
    std::vector<std::pair<double, double>> times;
  };

  static bool is_collective(const Item& item) { return item.track == static_cast<std::size_t>(Lane::communicate); }

  static double ready(const Item& item, const Clock& clock) {
    double begin = std::max(clock.free[item.track], clock.free[host]);
    for (const std::uint64_t earlier : item.after) begin = std::max(begin, clock.times[earlier].second);
    return begin;
  }

  /// Resolves a rank up to its next collective.
  static void advance(const std::deque<Item>& recording, Clock& clock) {
    for (; clock.next < recording.size() && !is_collective(recording[clock.next]); ++clock.next) {
      const Item& item = recording[clock.next];
      const double begin = ready(item, clock);
      const bool is_wait = item.kind == OperationKind::wait;
      clock.times.emplace_back(is_wait ? clock.free[host] : begin, begin + item.seconds);
      clock.free[item.track] = begin + item.seconds;
    }
  }

  /// Every rank stands at a collective: it begins when the last of them is ready.
  void meet(std::vector<Clock>& clocks) const {
    double begin = 0;
    for (std::size_t r = 0; r < clocks.size(); ++r) {
      check_same(clocks, r);
      begin = std::max(begin, ready(recordings_[r][clocks[r].next], clocks[r]));
    }
    for (std::size_t r = 0; r < clocks.size(); ++r) {
      const Item& item = recordings_[r][clocks[r].next++];
      clocks[r].times.emplace_back(begin, begin + item.seconds);
      clocks[r].free[item.track] = begin + item.seconds;
    }
  }

  void check_same(const std::vector<Clock>& clocks, std::size_t r) const {
    const auto describe = [&](std::size_t rank) {
      if (clocks[rank].next == recordings_[rank].size()) return std::string{"nothing more"};
      const Item& item = recordings_[rank][clocks[rank].next];
      return std::string{to_string(item.kind)} + " of " + item.name + " (" + std::to_string(item.bytes) + " bytes)";
    };
    if (describe(r) == describe(0)) return;
    throw DivergenceError{"rank 0: " + describe(0) + "; rank " + std::to_string(r) + ": " + describe(r),
                          Rank{static_cast<int>(r)}, std::source_location::current()};
  }

  void append(std::vector<Event>& events, std::size_t rank, const Clock& clock) const {
    for (std::size_t i = 0; i < clock.times.size(); ++i) {
      const Item& item = recordings_[rank][i];
      events.push_back({Rank{static_cast<int>(rank)}, item.track == host ? "host" : lane_names[item.track], item.kind,
                        item.name, item.bytes, clock.times[i].first, clock.times[i].second});
    }
  }

  std::vector<std::deque<Item>> recordings_;
};

}  // namespace zerospan::inline v0::sim
