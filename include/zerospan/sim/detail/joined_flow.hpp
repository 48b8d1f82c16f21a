/// @file
/// JoinedFlow: a collective, as one flow over the links of all of its ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>
#include <zerospan/sim/detail/links_of_ranks.hpp>
#include <zerospan/sim/detail/recording.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim::detail {

/// It is as fast as the slowest of its ranks allows, and ends for all of them at once.
struct JoinedFlow {
  double bytes = 0;    ///< Of the rank that has most.
  double seconds = 0;  ///< After the flow.
  double cap = instant;
  std::vector<LinkUse> uses;  ///< For each of its bytes.
};

/// @param parts Of each rank, its own.
inline JoinedFlow join(std::span<const Part> parts, const LinksOfRanks& links) {
  JoinedFlow flow;
  for (const Part& part : parts) {
    flow.bytes = std::max(flow.bytes, part.bytes);
    flow.seconds = std::max(flow.seconds, part.seconds);
  }
  for (const Part& part : parts) {
    if (part.bytes <= 0) continue;
    const Route& route = links.route(part.route);
    flow.cap = std::min(flow.cap, route.cap);
    for (LinkUse use : route.uses) {
      if (part.bytes < flow.bytes) {
        use.weight = to_weight(static_cast<double>(use.weight) / weight_one * (part.bytes / flow.bytes));
      }
      if (use.weight > 0) flow.uses.push_back(use);
    }
  }
  // What ranks share, each of them uses.
  std::ranges::sort(flow.uses, {}, &LinkUse::link);
  std::size_t kept = 0;
  for (const LinkUse& use : flow.uses) {
    if (kept > 0 && flow.uses[kept - 1].link == use.link) {
      flow.uses[kept - 1].weight += use.weight;
    } else {
      flow.uses[kept++] = use;
    }
  }
  flow.uses.resize(kept);
  return flow;
}

}  // namespace zerospan::inline v0::sim::detail
