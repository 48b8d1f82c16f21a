/// @file
/// SimulatedRank: one rank's machine in virtual time. All that a plan knows of `sim` is here.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/plan/detail/critical_path.hpp>
#include <zerospan/plan/detail/planned_disk.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/sim/cached_tier.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/schedule.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/sim/transfer_meter.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::plan::detail {

/// A rank of a simulated cluster with the memory of a setting.
template <sim::DeviceMemory Where>
class SimulatedRank {
 public:
  using device_type = sim::BasicDevice<Where>;

  /// @param cluster Outlives it. @throws as CachedTier, if the disk has a cache.
  SimulatedRank(sim::Cluster& cluster, const Setting& setting, Rank rank)
      : communicator{cluster, rank},
        device{cluster, rank, {.device_budget = setting.device_budget, .host_budget = setting.host_budget}},
        on_device{device},
        on_host{device},
        disk{setting.disk} {
    device.begin_transfers(disk, disk_meter_);
    if (setting.disk_cache) cache.emplace(device, TierRef{disk}, *setting.disk_cache);
  }

  TierRef tier(Place place) {
    switch (place) {
      case Place::device:
        return on_device;
      case Place::host:
        return on_host;
      case Place::nvme:
        break;
    }
    return cache ? TierRef{*cache} : TierRef{disk};
  }

  /// Where leases are taken, and the host computes.
  StreamRef stream() { return device.stream(); }

  void compute(std::string_view name, double flops) { device.compute(name, flops); }

  /// The host has come to the end of a step.
  void mark() { device.compute(end_of_step, 0); }

  /// The host's tracks, and the lanes'.
  static std::array<std::string_view, lane_count + 2> tracks() {
    std::array<std::string_view, lane_count + 2> names{"host", "stream"};
    std::ranges::copy(lane_names, names.begin() + 2);
    return names;
  }

  /// All that a rank has done, in virtual seconds. @param schedule Outlives it.
  static std::vector<TimedItem> items(const sim::Schedule& schedule, Rank rank) {
    std::vector<TimedItem> items;
    for (const sim::Event& event : schedule) {
      if (event.rank != rank) continue;
      items.push_back(
          {event.track, event.kind, event.name, event.bytes, event.begin, event.end, event.name == end_of_step});
    }
    return items;
  }

  sim::Communicator communicator;
  device_type device;
  DeviceTier on_device;
  HostTier on_host;
  PlannedDisk disk;
  std::optional<sim::CachedTier> cache;  ///< In front of the disk.

 private:
  static constexpr std::string_view end_of_step = "(the step ends)";

  sim::TierMeter disk_meter_{disk};
};

/// Calls `f` with the kind of a setting's device memory: `f.template operator()<Where>()`.
template <class F>
auto with_device(const Setting& setting, F f) {
  return setting.processor == Processor::cpu ? f.template operator()<sim::DeviceMemory::unified>()
                                             : f.template operator()<sim::DeviceMemory::own>();
}

/// Of a cluster whose ranks are equals, but for where they are.
inline sim::ClusterOptions equals_of(const Setting& setting) {
  return {.simulate = sim::Simulate::one_of_equals, .ranks_per_group = setting.groups ? setting.groups->ranks : 0};
}

/// Ranks that are alike, without any speeds.
inline sim::Cluster timeless(const Setting& setting) {
  return sim::Cluster{sim::Topology{.nodes = 1, .ranks_per_node = setting.ranks}, equals_of(setting)};
}

}  // namespace zerospan::inline v0::plan::detail
