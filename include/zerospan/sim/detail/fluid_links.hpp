/// @file
/// FluidLinks: links whose bytes a second are shared, max-min fair, by what flows over them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim::detail {

using LinkId = std::uint32_t;
using FlowId = std::uint32_t;

inline constexpr std::uint32_t none = static_cast<std::uint32_t>(-1);

/// Bytes of a link for each byte of a flow. Fixed point: sums are exact in any order, so that n equal flows and one
/// flow that counts n times get the same bits.
using Weight = std::int64_t;
inline constexpr double weight_one = 1099511627776.0;  // 2^40

inline Weight to_weight(double bytes) { return std::llround(bytes * weight_one); }

struct LinkUse {
  LinkId link;
  Weight weight;
};

/// What a link is able to do; links may be pairs that slow each other.
struct LinkSpeed {
  double alone;  ///< Bytes a second.
  double both;   ///< While something flows over the partner too.
  LinkId partner = none;
};

/// Flows of bytes. The rate of each is as high as it can be without lowering that of one that has no more (Bertsekas
/// and Gallager, Data Networks, section 6.5.2: progressive filling).
///
/// Links over which nothing has come or gone since the last `settle` keep their rates: the cost of an event is that of
/// the flows that share links with what came or went, directly or by others.
class FluidLinks {
 public:
  struct Load {
    double bytes = 0;
    double busy = 0;  ///< Seconds in which anything has flowed.
  };

  explicit FluidLinks(std::span<const LinkSpeed> speeds) {
    links_.reserve(speeds.size());
    for (const LinkSpeed& speed : speeds) {
      links_.emplace_back();
      links_.back().speed = speed;
    }
  }

  /// A flow begins. Its rate is known when `settle` returns.
  /// @param cap Bytes a second that it never exceeds.
  FlowId start(double now, double bytes, std::span<const LinkUse> uses, double cap) {
    FlowId id = 0;
    if (free_.empty()) {
      id = static_cast<FlowId>(flows_.size());
      flows_.emplace_back();
    } else {
      id = free_.back();
      free_.pop_back();
    }
    Flow& flow = flows_[id];
    flow.uses.assign(uses.begin(), uses.end());
    flow.bytes = flow.remaining = bytes;
    flow.cap = cap;
    flow.rate = 0;
    flow.since = now;
    flow.is_new = true;
    for (const LinkUse& use : uses) {
      State& link = links_[use.link];
      link.flows.push_back(id);
      if (link.flows.size() > 1) continue;
      link.busy_since = now;
      touch_partner(use.link);
    }
    started_.push_back(id);
    return id;
  }

  /// A flow has ended. Nobody else gets its number before the next `settle`.
  void end(double now, FlowId id) {
    Flow& flow = flows_[id];
    for (const LinkUse& use : flow.uses) {
      State& link = links_[use.link];
      *std::ranges::find(link.flows, id) = link.flows.back();
      link.flows.pop_back();
      link.load.bytes += flow.bytes * (static_cast<double>(use.weight) / weight_one);
      touched_.push_back(use.link);
      if (!link.flows.empty()) continue;
      link.load.busy += now - link.busy_since;
      touch_partner(use.link);
    }
    flow.uses.clear();
    ++flow.version;
    ended_.push_back(id);
  }

  /// What has gone over a link, of flows that have ended.
  Load load(LinkId link) const { return links_[link].load; }

  /// Tells flows that ended from others that have their numbers, and old ends of a flow from the last one.
  std::uint32_t version(FlowId id) const { return flows_[id].version; }

  /// Shares links anew after flows have begun and ended: calls `ends(flow, time)` of each whose end has changed.
  template <class Ends>
  void settle(double now, Ends ends) {
    if (started_.empty() && touched_.empty()) return;
    collect();
    share();
    for (const FlowId id : reached_flows_) {
      Flow& flow = flows_[id];
      if (flow.next_rate == flow.rate && !flow.is_new) continue;
      if (now > flow.since) flow.remaining = std::max(0.0, flow.remaining - flow.rate * (now - flow.since));
      flow.since = now;
      flow.rate = flow.next_rate;
      flow.is_new = false;
      ++flow.version;
      ends(id, now + flow.remaining / flow.rate);
    }
    started_.clear();
    touched_.clear();
    free_.insert(free_.end(), ended_.begin(), ended_.end());
    ended_.clear();
  }

 private:
  struct State {
    LinkSpeed speed{};
    std::vector<FlowId> flows;
    std::uint32_t epoch = 0;
    double left = 0;     // bytes a second that are not given
    Weight waiting = 0;  // of the flows that have no rate yet
    Weight given = 0;    // of the flows that got theirs in this round
    double level = 0;    // the rate that its flows can have
    double busy_since = 0;
    Load load;
  };

  struct Flow {
    std::vector<LinkUse> uses;
    double bytes = 0;
    double remaining = 0;
    double cap = 0;
    double rate = 0;
    double since = 0;
    double next_rate = 0;
    std::uint32_t version = 0;
    std::uint32_t epoch = 0;
    bool is_new = false;
  };

  void touch_partner(LinkId link) {
    if (const LinkId partner = links_[link].speed.partner; partner != none) touched_.push_back(partner);
  }

  double capacity(const State& link) const {
    const LinkId partner = link.speed.partner;
    return partner != none && !links_[partner].flows.empty() ? link.speed.both : link.speed.alone;
  }

  void reach(FlowId id) {
    if (flows_[id].epoch == epoch_) return;
    flows_[id].epoch = epoch_;
    reached_flows_.push_back(id);
  }

  /// Everything that a change can reach, from flow to flow by the links that they share.
  void collect() {
    ++epoch_;
    reached_flows_.clear();
    reached_links_.clear();
    for (const FlowId id : started_) {
      if (flows_[id].is_new) reach(id);
    }
    for (const LinkId link : touched_) {
      for (const FlowId id : links_[link].flows) reach(id);
    }
    for (std::size_t i = 0; i < reached_flows_.size(); ++i) {
      for (const LinkUse& use : flows_[reached_flows_[i]].uses) {
        State& link = links_[use.link];
        if (link.epoch == epoch_) continue;
        link.epoch = epoch_;
        reached_links_.push_back(use.link);
        for (const FlowId id : link.flows) reach(id);
      }
    }
  }

  /// Fills: all rates rise together, until a link is full or a flow has its cap.
  void share() {
    for (const LinkId id : reached_links_) {
      State& link = links_[id];
      link.left = capacity(link);
      link.waiting = link.given = 0;
    }
    for (const FlowId id : reached_flows_) {
      flows_[id].next_rate = -1;
      for (const LinkUse& use : flows_[id].uses) links_[use.link].waiting += use.weight;
    }
    std::size_t left = reached_flows_.size();
    double level = 0;
    while (left > 0) {
      double least = instant;
      for (const LinkId id : reached_links_) {
        State& link = links_[id];
        link.level =
            link.waiting > 0 ? std::max(level, link.left / (static_cast<double>(link.waiting) / weight_one)) : instant;
        least = std::min(least, link.level);
      }
      for (const FlowId id : reached_flows_) {
        if (flows_[id].next_rate < 0) least = std::min(least, flows_[id].cap);
      }
      level = least;
      for (const FlowId id : reached_flows_) {
        Flow& flow = flows_[id];
        if (flow.next_rate >= 0 || !is_full(flow, level)) continue;
        flow.next_rate = level;
        --left;
        for (const LinkUse& use : flow.uses) links_[use.link].given += use.weight;
      }
      if (level == instant) return;
      for (const LinkId id : reached_links_) {
        State& link = links_[id];
        if (link.given == 0) continue;
        link.left = std::max(0.0, link.left - level * (static_cast<double>(link.given) / weight_one));
        link.waiting -= std::exchange(link.given, 0);
      }
    }
  }

  bool is_full(const Flow& flow, double level) const {
    if (flow.cap <= level || level == instant) return true;
    return std::ranges::any_of(flow.uses, [&](const LinkUse& use) { return links_[use.link].level <= level; });
  }

  std::vector<State> links_;
  std::vector<Flow> flows_;
  std::vector<FlowId> free_;
  std::vector<FlowId> ended_;    // since the last settlement
  std::vector<FlowId> started_;  // likewise
  std::vector<LinkId> touched_;  // likewise, by what ended
  std::vector<FlowId> reached_flows_;
  std::vector<LinkId> reached_links_;
  std::uint32_t epoch_ = 0;
};

}  // namespace zerospan::inline v0::sim::detail
