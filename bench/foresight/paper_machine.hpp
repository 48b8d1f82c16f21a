/// @file
/// One GPU of the paper's cluster in virtual time, its share of the host's memory and of the disks. (That of a plan,
/// plan::detail::SimulatedRank, has neither a speed by shapes nor a disk that takes time.)
#pragma once

#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "paper_cluster.hpp"
#include "paper_v100.hpp"

namespace paper {

struct Machine {
  /// @param cluster Outlives it.
  /// @param device_budget Bytes, as `host_budget`.
  Machine(zerospan::sim::Cluster& cluster, zerospan::Rank rank, double device_budget, double host_budget,
          const V100& speed = {})
      : device{cluster,
               rank,
               {.device_budget = to_bytes(device_budget), .host_budget = to_bytes(host_budget), .compute = speed}},
        gpu{device},
        cpu{device},
        nvme{device, {.name = "NVMe", .capacity = to_bytes(disk_bytes)}},
        world{cluster, rank} {}

  zerospan::TierRef tier(Place place) {
    if (place == Place::gpu) return gpu;
    if (place == Place::cpu) return cpu;
    return nvme;
  }

  zerospan::Placement placement(Place parameters, Place gradients, Place optimizer) {
    return {.parameters = tier(parameters), .gradients = tier(gradients), .optimizer = tier(optimizer)};
  }

  zerospan::sim::Device device;
  zerospan::DeviceTier gpu;
  zerospan::HostTier cpu;
  zerospan::sim::Tier nvme;
  zerospan::sim::Communicator world;
};

}  // namespace paper
