/// @file
/// Resolution: plays the recordings of all ranks against each other, and tells when each item began and ended.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>
#include <zerospan/sim/detail/joined_flow.hpp>
#include <zerospan/sim/detail/links_of_ranks.hpp>
#include <zerospan/sim/detail/recording.hpp>

namespace zerospan::inline v0::sim::detail {

/// The recording of a simulated rank.
struct RankRecording {
  Rank rank;
  const Recording* recording;
};

/// A discrete simulation of events. Each rank has runners, which take items one after the other: the host's thread, in
/// program order; its stream; and of each lane, in posting order, the thread, the stream of a device with memory of its
/// own, and the queue of asynchronous transfers. What runs flows over links (`FluidLinks`). All that happens at one
/// time happens before links are shared anew, so that equal ranks stay equal to the bit.
class Resolution {
 public:
  struct Times {
    double begin = 0;
    double end = 0;
  };

  /// @param group_sizes Of each group, the simulated ranks in it.
  Resolution(std::vector<RankRecording> ranks, const LinksOfRanks& links, std::span<const std::size_t> group_sizes)
      : links_{links}, fluid_{links.speeds()} {
    for (const RankRecording& rank : ranks) {
      ranks_.push_back({rank.rank, rank.recording, static_cast<RunnerId>(runners_.size()), 0,
                        std::vector<State>(rank.recording->size())});
      runners_.resize(runners_.size() + 2 + 3 * lane_count * rank.recording->lane_sets,
                      {static_cast<std::uint32_t>(ranks_.size() - 1)});
    }
    groups_.resize(group_sizes.size());
    for (std::size_t g = 0; g < groups_.size(); ++g) groups_[g].size = group_sizes[g];
  }

  /// @throws DivergenceError if ranks wait for each other's collectives for ever, or meet in different ones.
  void run() {
    for (SimulatedRank& rank : ranks_) wake(rank.first_runner);
    do {
      step_all();
      fluid_.settle(now_, [&](FlowId flow, double end) { push(end, What::flow, flow, fluid_.version(flow)); });
    } while (advance());
    check_all_ended();
  }

  FluidLinks::Load load(LinkId link) const { return fluid_.load(link); }

  Times times(std::size_t rank, std::size_t item) const {
    const State& state = ranks_[rank].states[item];
    return {state.begin, state.end};
  }

 private:
  using RunnerId = std::uint32_t;
  using ItemId = std::uint32_t;

  /// An item that is on its way.
  struct State {
    double begin = 0;
    double end = 0;
    RunnerId first_waiting = none;
    ItemId next = none;  // in the queue of its runner
    bool is_enqueued = false;
    bool has_ended = false;
  };

  struct RunnerState {
    std::uint32_t rank;
    ItemId first = none;  // of the queue
    ItemId last = none;
    ItemId running = none;
    std::uint32_t part = 0;
    double arrived = -1;           // at the first item of the queue
    RunnerId next_waiting = none;  // for the same item
    bool is_awake = false;         // is to be stepped
    bool waits = false;            // for an item
  };

  struct SimulatedRank {
    Rank rank;
    const Recording* recording;
    RunnerId first_runner;  // the host's; then its stream's; then of each lane its thread, stream and transfers
    ItemId next;            // of the host's program
    std::vector<State> states;
  };

  struct Group {
    std::size_t size = 0;
    std::vector<RunnerId> arrived;
  };

  enum class What : std::uint8_t { flow, runner, item };

  struct Event {
    double time;
    What what;
    std::uint32_t which;
    std::uint32_t version;  // of a flow; the rank of an item

    /// The first in the queue is the one that comes first.
    friend bool operator<(const Event& a, const Event& b) {
      return std::tie(a.time, a.what, a.which) > std::tie(b.time, b.what, b.which);
    }
  };

  enum class Stage : std::uint8_t { thread, stream, transfers };

  static RunnerId runner_of(const SimulatedRank& rank, const Item& item, Stage stage) {
    return rank.first_runner + 2 + 3 * (item.lanes * static_cast<RunnerId>(lane_count) + item.lane) +
           static_cast<RunnerId>(stage);
  }

  /// What a runner is: 0 the host, 1 its stream, then a stage of a lane.
  static bool is_host(RunnerId offset) { return offset == 0; }
  static bool is_thread(RunnerId offset) { return offset >= 2 && (offset - 2) % 3 == 0; }
  static bool is_transfers(RunnerId offset) { return offset >= 2 && (offset - 2) % 3 == 2; }

  void wake(RunnerId id) {
    if (std::exchange(runners_[id].is_awake, true)) return;
    awake_.push_back(id);
  }

  void push(double time, What what, std::uint32_t which, std::uint32_t version = 0) {
    events_.push({time, what, which, version});
  }

  void step_all() {
    while (!awake_.empty()) {
      const RunnerId id = awake_.back();
      awake_.pop_back();
      runners_[id].is_awake = false;
      step(id);
    }
  }

  /// Goes on to the next time at which something happens, and lets it happen. @return Whether there was one.
  bool advance() {
    bool has_happened = false;
    while (!events_.empty() && (!has_happened || events_.top().time == now_)) {
      const Event event = events_.top();
      events_.pop();
      if (event.what == What::flow && fluid_.version(event.which) != event.version) continue;
      now_ = event.time;
      has_happened = true;
      switch (event.what) {
        case What::flow:
          flow_ended(event.which);
          break;
        case What::runner:
          go_on(event.which);
          break;
        case What::item:
          end_item(ranks_[event.version], event.which);
          break;
      }
    }
    return has_happened;
  }

  /// Lets a runner begin what it can.
  void step(RunnerId id) {
    SimulatedRank& rank = ranks_[runners_[id].rank];
    const RunnerId offset = id - rank.first_runner;
    if (is_host(offset)) return step_host(rank, id);
    for (;;) {
      RunnerState& runner = runners_[id];
      if (runner.running != none || runner.waits || runner.first == none) return;
      const ItemId number = runner.first;
      const Item& item = (*rank.recording)[number];
      const bool is_given_on = is_thread(offset) && item.runner == Runner::enqueued;
      if (runner.arrived < 0) runner.arrived = now_;
      if (!is_transfers(offset) && !is_ready(rank, id, item, is_given_on)) return;
      runner.first = rank.states[number].next;
      const double arrived = std::exchange(runner.arrived, -1.0);
      if (is_given_on) {
        enqueue(rank, number, runner_of(rank, item, Stage::stream));
      } else if (is_thread(offset) && item.runner == Runner::transfer) {
        queue(rank, number, runner_of(rank, item, Stage::transfers));
      } else {
        begin(rank, id, number, item.kind == OperationKind::wait ? arrived : now_);
      }
    }
  }

  /// The host's thread posts, computes and waits.
  void step_host(SimulatedRank& rank, RunnerId id) {
    while (rank.next < rank.states.size()) {
      RunnerState& runner = runners_[id];
      if (runner.running != none || runner.waits) return;
      const ItemId number = rank.next;
      const Item& item = (*rank.recording)[number];
      if (item.runner == Runner::host) {
        if (runner.arrived < 0) runner.arrived = now_;
        if (!is_ready(rank, id, item, false)) return;
        ++rank.next;
        const double arrived = std::exchange(runner.arrived, -1.0);
        begin(rank, id, number, item.kind == OperationKind::wait ? arrived : now_);
      } else if (item.runner == Runner::stream) {
        if (!is_ready(rank, id, item, true)) return;
        ++rank.next;
        enqueue(rank, number, id + 1);
      } else {
        ++rank.next;
        queue(rank, number, runner_of(rank, item, Stage::thread));
      }
    }
  }

  /// Whether all that an item comes after has ended (or, for an item that is given to a stream, is on one); if not,
  /// the runner is woken when the first that has not ends.
  bool is_ready(SimulatedRank& rank, RunnerId id, const Item& item, bool is_enough_enqueued) {
    for (const ItemId earlier : rank.recording->after(item)) {
      State& state = rank.states[earlier];
      if (state.has_ended || (is_enough_enqueued && state.is_enqueued)) continue;
      RunnerState& runner = runners_[id];
      runner.waits = true;
      runner.next_waiting = std::exchange(state.first_waiting, id);
      return false;
    }
    return true;
  }

  void wake_waiting(State& state) {
    for (RunnerId id = std::exchange(state.first_waiting, none); id != none;) {
      const RunnerId next = std::exchange(runners_[id].next_waiting, none);
      runners_[id].waits = false;
      wake(id);
      id = next;
    }
  }

  void queue(SimulatedRank& rank, ItemId number, RunnerId to) {
    RunnerState& runner = runners_[to];
    rank.states[number].next = none;
    if (runner.first == none) {
      runner.first = number;
    } else {
      rank.states[runner.last].next = number;
    }
    runner.last = number;
    wake(to);
  }

  void enqueue(SimulatedRank& rank, ItemId number, RunnerId stream) {
    rank.states[number].is_enqueued = true;
    wake_waiting(rank.states[number]);
    queue(rank, number, stream);
  }

  void begin(SimulatedRank& rank, RunnerId id, ItemId number, double time) {
    rank.states[number].begin = time;
    runners_[id].running = number;
    runners_[id].part = 0;
    go_on(id);
  }

  /// A runner has done some part of an item.
  void go_on(RunnerId id) {
    RunnerState& runner = runners_[id];
    SimulatedRank& rank = ranks_[runner.rank];
    const ItemId number = runner.running;
    const Item& item = (*rank.recording)[number];
    const auto parts = rank.recording->parts(item);
    while (runner.part < parts.size()) {
      const Part& part = parts[runner.part];
      if (part.group != none) return arrive(id, part);
      ++runner.part;
      if (part.bytes > 0) {
        const Route& route = links_.route(part.route);
        if (!route.uses.empty() || route.cap != instant) {
          flows_with(fluid_.start(now_, part.bytes, route.uses, route.cap), part.seconds).runners = {id};
          return;
        }
      }
      if (is_transfers(id - rank.first_runner) && part.seconds > 0) {
        runner.running = none;
        push(now_ + part.seconds, What::item, number, runner_rank(id));
        return wake(id);
      }
      if (part.seconds > 0) return push(now_ + part.seconds, What::runner, id);
    }
    runner.running = none;
    end_item(rank, number);
    wake(id);
  }

  std::uint32_t runner_rank(RunnerId id) const { return runners_[id].rank; }

  /// The next of a collective's ranks is there. With the last of them it begins.
  void arrive(RunnerId id, const Part& part) {
    Group& group = groups_[part.group];
    group.arrived.push_back(id);
    if (group.arrived.size() < group.size) return;
    std::vector<RunnerId> arrived = std::exchange(group.arrived, {});
    std::ranges::sort(arrived);
    for (const RunnerId other : arrived) check_same(arrived.front(), other);
    std::vector<Part> parts;
    for (const RunnerId each : arrived) parts.push_back(current(each));
    const JoinedFlow flow = join(parts, links_);
    for (const RunnerId each : arrived) {
      RunnerState& runner = runners_[each];
      if (runner.part == 0) ranks_[runner.rank].states[runner.running].begin = now_;
      ++runner.part;
    }
    if (flow.uses.empty() && flow.cap == instant) return after_flow(arrived, flow.seconds);
    flows_with(fluid_.start(now_, flow.bytes, flow.uses, flow.cap), flow.seconds).runners = std::move(arrived);
  }

  const Part& current(RunnerId id) const {
    const Recording& recording = *ranks_[runners_[id].rank].recording;
    return recording.parts(recording[runners_[id].running])[runners_[id].part];
  }

  struct FlowOwner {
    std::vector<RunnerId> runners;
    double seconds = 0;
  };

  FlowOwner& flows_with(FlowId flow, double seconds) {
    if (flow >= owners_.size()) owners_.resize(flow + 1);
    owners_[flow].seconds = seconds;
    return owners_[flow];
  }

  void flow_ended(FlowId flow) {
    fluid_.end(now_, flow);
    after_flow(std::move(owners_[flow].runners), owners_[flow].seconds);
  }

  void after_flow(const std::vector<RunnerId>& runners, double seconds) {
    for (const RunnerId id : runners) {
      const RunnerState& runner = runners_[id];
      const SimulatedRank& rank = ranks_[runner.rank];
      if (seconds <= 0) {
        go_on(id);
      } else if (is_transfers(id - rank.first_runner)) {
        // The request is under way still; the link is free for the next.
        push(now_ + seconds, What::item, runner.running, runner.rank);
        runners_[id].running = none;
        wake(id);
      } else {
        push(now_ + seconds, What::runner, id);
      }
    }
  }

  void end_item(SimulatedRank& rank, ItemId number) {
    State& state = rank.states[number];
    state.end = now_;
    state.has_ended = true;
    wake_waiting(state);
  }

  std::string describe(RunnerId id) const {
    const RunnerState& runner = runners_[id];
    if (runner.running == none) return "nothing more";
    const Recording& recording = *ranks_[runner.rank].recording;
    const Item& item = recording[runner.running];
    return std::string{to_string(item.kind)} + " of " + std::string{recording.name(item)} + " (" +
           std::to_string(static_cast<std::size_t>(item.bytes)) + " bytes)";
  }

  void check_same(RunnerId one, RunnerId other) const {
    if (one == other) return;
    const auto& [a, b] = std::tie(ranks_[runners_[one].rank], ranks_[runners_[other].rank]);
    const Item& first = (*a.recording)[runners_[one].running];
    const Item& second = (*b.recording)[runners_[other].running];
    if (first.kind == second.kind && first.bytes == second.bytes &&
        a.recording->name(first) == b.recording->name(second)) {
      return;
    }
    throw_divergence(one, other);
  }

  [[noreturn]] void throw_divergence(RunnerId one, RunnerId other) const {
    const auto rank_of = [&](RunnerId id) { return ranks_[runners_[id].rank].rank; };
    throw DivergenceError{"rank " + std::to_string(rank_of(one).value) + ": " + describe(one) + "; rank " +
                              std::to_string(rank_of(other).value) + ": " + describe(other),
                          rank_of(other), std::source_location::current()};
  }

  /// Whoever is left waits for a collective that others do not come to.
  void check_all_ended() const {
    for (const Group& group : groups_) {
      if (group.arrived.empty()) continue;
      const RunnerId one = group.arrived.front();
      const RunnerId place = one - ranks_[runners_[one].rank].first_runner;
      for (const SimulatedRank& rank : ranks_) {
        const RunnerId other = rank.first_runner + place;
        const bool has_place = place < 2 + 3 * lane_count * rank.recording->lane_sets;
        if (has_place && std::ranges::find(group.arrived, other) == group.arrived.end()) {
          throw_divergence(std::min(one, other), std::max(one, other));
        }
      }
    }
  }

  const LinksOfRanks& links_;
  FluidLinks fluid_;
  std::vector<SimulatedRank> ranks_;
  std::vector<RunnerState> runners_;
  std::vector<Group> groups_;
  std::vector<FlowOwner> owners_;  // by the flow's number
  std::vector<RunnerId> awake_;
  std::priority_queue<Event> events_;
  double now_ = 0;
};

}  // namespace zerospan::inline v0::sim::detail
