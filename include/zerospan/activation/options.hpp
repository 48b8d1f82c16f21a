/// @file
/// What activation checkpoints are told, and what they count.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/lane_options.hpp>

namespace zerospan::inline v0 {

class Timeline;

struct ActivationOptions {
  /// The most bytes that are on the tier at once. Each checkpoint takes a multiple of the tier's alignment there.
  Bytes bytes{};

  /// Device memory for the latest checkpoints, for those on their way, and for the leases held. Each takes a multiple
  /// of 64 bytes. On a tier that is device memory there is none beside `bytes`.
  Bytes device_bytes = 256_MiB;

  /// Host memory for transfers; taken only where the tier is not addressable.
  Bytes staging = 64_MiB;

  /// Names the checkpoints in errors and on the timeline.
  std::string name = "activations";

  /// Whose lanes they are on the timeline; another number than the engine's keeps the two apart.
  Rank rank{};

  /// How long a transfer may take before it is an error.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};

  /// Records every operation, where given; it outlives the checkpoints.
  Timeline* timeline = nullptr;
};

/// Totals since the checkpoints were made. The bytes are those of the tensors, without any padding.
struct ActivationCounters {
  std::uint64_t bytes_offloaded = 0;  ///< Moved to the tier.
  std::uint64_t bytes_fetched = 0;    ///< Moved back.
  std::uint64_t hits = 0;             ///< Pops of what was in device memory, or on its way there.
  std::uint64_t misses = 0;           ///< Pops that had to be fetched on demand.
  Bytes peak_device;                  ///< The most device memory in use at once.
  Bytes peak_tier;                    ///< The most of the tier in use at once.
  LaneCounters operations;
};

}  // namespace zerospan::inline v0
