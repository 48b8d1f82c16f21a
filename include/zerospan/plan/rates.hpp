/// @file
/// plan::Rates: how fast a machine is.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/sim/cluster.hpp>

namespace zerospan::inline v0::plan {

/// The speeds of one rank's machine: its shares of what it has in common with others.
struct Rates {
  sim::Link copy{.bytes_per_second = 25e9};     ///< Between host and device memory.
  sim::Link network{.bytes_per_second = 25e9};  ///< Collectives, in bytes that a rank moves.
  sim::Link update{.bytes_per_second = 50e9};   ///< Optimizer, accumulation and fills, in bytes of their operands.
  sim::Link disk{.bytes_per_second = 3e9};      ///< Reads; writes have as much beside them.
  double flops_per_second = 100e12;             ///< Of the model's computations.
};

}  // namespace zerospan::inline v0::plan
