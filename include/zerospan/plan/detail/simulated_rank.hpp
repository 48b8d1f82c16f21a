/// @file
/// SimulatedRank: one rank's machine in virtual time. All that a plan knows of `sim` is here.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/plan/detail/critical_path.hpp>
#include <zerospan/plan/detail/planned_disk.hpp>
#include <zerospan/plan/rates.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>

namespace zerospan::inline v0::plan::detail {

/// A rank among others that do the same at the same time: where parameters are in slices, all ranks hold as much, and
/// post the same. So one of them is simulated, and stands for all.
class LikeRank {
 public:
  LikeRank(Rank rank, int size) noexcept : rank_{rank}, size_{size} {}

  Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  LikeRank duplicate() const { return *this; }
  void abort(const std::string&) noexcept {}

  void all_gather(Collective, std::span<const GatherPart>) const noexcept {}
  void reduce_scatter(Collective, const Reduction&) const noexcept {}
  void reduce(Collective, const Reduction&, Rank) const noexcept {}
  void all_reduce(Collective, const Reduction&) const noexcept {}
  void all_reduce(Collective, std::span<std::int64_t>) const noexcept {}
  void broadcast(Collective, std::span<std::byte>, Rank) const noexcept {}
  void barrier(Collective) const noexcept {}

 private:
  Rank rank_;
  int size_;
};

static_assert(TrainingCommunicator<LikeRank>);

class SimulatedRank {
 public:
  using device_type = sim::Device;

  SimulatedRank(const Setting& setting, Rank rank, const Rates& rates)
      : communicator{rank, setting.ranks},
        device{cluster_,
               Rank{0},
               {.device_budget = setting.device_budget,
                .host_budget = setting.host_budget,
                .rates = {rates.copy, rates.network, rates.update, rates.flops_per_second}}},
        on_device{device},
        on_host{device},
        disk{setting.disk} {
    device.connect(&disk, rates.disk);
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
    return disk;
  }

  /// The host computes.
  void compute(std::string_view name, double flops) { device.compute(name, flops); }

  /// The host has come to the end of a step.
  void mark() { device.compute(end_of_step, 0); }

  /// The host's track, and the lanes'.
  static std::array<std::string_view, lane_count + 1> tracks() {
    std::array<std::string_view, lane_count + 1> names{"host"};
    std::ranges::copy(lane_names, names.begin() + 1);
    return names;
  }

  /// All that has happened, in virtual seconds.
  std::vector<TimedItem> items() const {
    std::vector<TimedItem> items;
    for (const sim::Event& event : cluster_.resolve()) {
      items.push_back({event.track, event.kind, event.begin, event.end, event.name == end_of_step});
    }
    return items;
  }

 private:
  static constexpr std::string_view end_of_step = "(the step ends)";

  sim::Cluster cluster_{1};

 public:
  LikeRank communicator;
  device_type device;
  DeviceTier on_device;
  HostTier on_host;
  PlannedDisk disk;
};

}  // namespace zerospan::inline v0::plan::detail
