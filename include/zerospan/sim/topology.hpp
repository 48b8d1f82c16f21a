/// @file
/// sim::Topology: the links of a simulated cluster, and who shares them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::sim {

/// What costs nothing.
inline constexpr double instant = std::numeric_limits<double>::infinity();

/// A link in virtual time. Whatever crosses it at one time shares its bytes a second; the latency delays the end of
/// each transfer, and keeps the link for nobody.
struct Link {
  double bytes_per_second = instant;
  double latency = 0;  ///< Seconds.
};

/// Who shares a resource.
enum class Scope : std::uint8_t { rank, node };

/// The links between the memory of hosts and of devices. Each direction is a link of its own.
struct HostLink {
  Link to_device{};
  Link to_host{};
  int ranks = 1;  ///< So many consecutive ranks of a node share them: those below one switch or socket.
};

/// Storage that stays: reads and writes.
struct Disk {
  double read = instant;   ///< Bytes a second while nothing is written.
  double write = instant;  ///< Bytes a second while nothing is read.
  double mixed = 0;        ///< Bytes a second of each direction while both are busy; 0: they do not slow each other.
  double latency = 0;      ///< Seconds, of a request.
  Scope scope = Scope::rank;
};

/// Bytes that cross a memory for each byte of an operation's operand.
struct MemoryTraffic {
  double fill = 1;
  double accumulate = 2.5;  ///< The accumulator is read and written, a gradient of 16 bits is read.
  double update = 2.5;      ///< States are read and written, gradients read, parameters written.
  double copy = 1;          ///< Each end of a copy that lies in this memory.
  double disk = 1;          ///< Of host memory: transfers to and from storage.
};

/// A memory, and the processors that update what is in it.
struct Memory {
  double bytes_per_second = instant;  ///< Of a node's host memory, shared by its ranks; of each device's memory.
  MemoryTraffic traffic{};

  /// What the processors of one rank reach alone, in bytes of operands a second.
  double fill = instant;
  double accumulate = instant;
  double update = instant;
};

/// Where a device has its memory.
enum class DeviceMemory : std::uint8_t {
  own,      ///< As a GPU: copies go over the host link, kernels run in the device's memory, compute on a stream.
  unified,  ///< As a CPU: the host's threads do everything, in its memory.
};

/// How collectives send their bytes.
enum class Algorithm : std::uint8_t {
  direct,  ///< Each rank sends each other one its slice: in one hop, and between nodes once for each pair of ranks.
  ring,    ///< From rank to rank, those of a node one after the other: a byte enters each node once, in many hops.
};

/// A cluster of equal nodes. What is not said costs nothing.
/// @code
/// constexpr sim::Topology dgx2{.nodes = 32,
///                              .ranks_per_node = 16,
///                              .within = {.bytes_per_second = 150e9, .latency = 5e-6},
///                              .between = {.bytes_per_second = 100e9, .latency = 10e-6},
///                              .host_link = {.to_device = {12e9}, .to_host = {12e9}, .ranks = 2},
///                              .disk = {.read = 25.6e9, .write = 25.6e9, .scope = sim::Scope::node},
///                              .host_memory = {.bytes_per_second = 200e9},
///                              .device_memory = {.bytes_per_second = 800e9},
///                              .flops_per_second = 70e12};
/// @endcode
struct Topology {
  int nodes = 1;
  int ranks_per_node = 1;
  Link within{};             ///< Of each rank to the others of its node, each direction.
  Link between{};            ///< Of each node to the others, each direction: all adapters of the node together.
  double adapter = instant;  ///< Bytes a second that one rank alone gets of `between`.
  HostLink host_link{};
  Disk disk{};
  Memory host_memory{};
  Memory device_memory{};
  double flops_per_second = instant;  ///< Of a rank's compute, unless the device says it better.
  Algorithm collectives = Algorithm::direct;

  constexpr int ranks() const noexcept { return nodes * ranks_per_node; }
};

/// The speeds of a rank that shares nothing.
struct Rates {
  Link copy;        ///< Between host and device memory, each direction.
  Link network;     ///< Collectives, each direction.
  double update{};  ///< Fills, accumulations and updates each, in bytes of their operands a second.
  double flops_per_second = instant;
};

/// One node of ranks with links of their own: for small tests, where times are counted by hand.
constexpr Topology one_node(int ranks, const Rates& rates) {
  const Memory memory{instant, {}, rates.update, rates.update, rates.update};
  Topology topology{.nodes = 1, .ranks_per_node = ranks, .within = rates.network};
  topology.host_link = {rates.copy, rates.copy, 1};
  topology.host_memory = memory;
  topology.device_memory = memory;
  topology.flops_per_second = rates.flops_per_second;
  return topology;
}

}  // namespace zerospan::inline v0::sim
