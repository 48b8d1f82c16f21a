/// @file
/// The cluster of ZeRO-Infinity (arXiv 2104.07857): nodes of 16 V100.
#pragma once

#include <cstddef>
#include <cstdint>

#include <zerospan/core/units.hpp>
#include <zerospan/sim/topology.hpp>

#include "paper_model.hpp"

namespace paper {

inline constexpr int gpus_of_node = 16;

enum class Place : std::uint8_t { gpu, cpu, nvme };

/// What a GPU or a node has. Bytes a second in each direction, and seconds.
struct Hardware {
  double between_gpus = 70e9;      ///< Of a GPU to the others of its node, when it gathers: the paper's figure.
  double between_nodes = 100e9;    ///< Of a node: eight adapters of 100 Gbit/s.
  double to_host = 3e9;            ///< Of a GPU, while all of its node copy (48 GB/s a node); one alone gets 12 GB/s.
  double disk = 1.6e9;             ///< Of a GPU, while all of its node read or write (25.6 GB/s a node).
  double host_memory = 200e9;      ///< Of a node: two sockets of six channels of DDR4-2666 have 256 GB/s by data sheet.
  double device_memory = 784e9;    ///< Of a GPU: as its curve has it (paper_v100.hpp).
  double latency_within = 5e-6;    ///< A hop between GPUs.
  double latency_between = 10e-6;  ///< A hop between nodes.
  double latency_disk = 100e-6;    ///< A request.
};

inline constexpr double device_bytes = 32 * gibi;
inline constexpr double host_bytes = 1536 * gibi / gpus_of_node;  ///< A GPU's share.
inline constexpr double disk_bytes = 28e12 / gpus_of_node;        ///< A GPU's share.

/// CUDA's context, cuBLAS and a framework's own buffers, on each GPU: an allowance, not a measurement.
inline constexpr double framework_bytes = 1 * gibi;

inline zerospan::sim::Topology topology(int nodes, const Hardware& hardware) {
  zerospan::sim::Topology all{.nodes = nodes, .ranks_per_node = gpus_of_node};
  all.within = {hardware.between_gpus, hardware.latency_within};
  all.between = {hardware.between_nodes, hardware.latency_between};
  all.host_link = {{hardware.to_host}, {hardware.to_host}, 1};
  all.disk = {.read = gpus_of_node * hardware.disk,
              .write = gpus_of_node * hardware.disk,
              .latency = hardware.latency_disk,
              .scope = zerospan::sim::Scope::node};
  all.host_memory.bytes_per_second = hardware.host_memory;
  all.device_memory.bytes_per_second = hardware.device_memory;
  all.collectives = zerospan::sim::Algorithm::ring;  // as NCCL's: a byte enters each node once
  return all;
}

inline zerospan::Bytes to_bytes(double bytes) { return zerospan::Bytes{static_cast<std::size_t>(bytes)}; }

}  // namespace paper
