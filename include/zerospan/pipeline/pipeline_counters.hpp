/// @file
/// PipelineCounters: how well prefetching did.
#pragma once

#include <cstdint>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// How gathers found what they asked for.
struct PipelineCounters {
  std::uint64_t hits = 0;     ///< Gathers that had been posted ahead.
  std::uint64_t misses = 0;   ///< Gathers fetched on demand.
  std::uint64_t mended = 0;   ///< Passes that left the path they were expected to take.
  std::uint64_t dropped = 0;  ///< Prefetches given up unused.
  std::uint64_t kept = 0;     ///< Gathers of what had stayed in device memory since its last use.
  std::uint64_t plans = 0;    ///< Passes that were planned: each costs the host time when it ends.
};

}  // namespace zerospan::inline v0
