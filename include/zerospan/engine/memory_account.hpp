/// @file
/// MemoryAccount: what an engine's memory is for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// What memory, or space on a tier, is for.
enum class MemoryPurpose : std::uint8_t {
  parameters,        ///< This rank's shards of the parameters that are partitioned.
  replicas,          ///< Parameters that every rank has whole.
  group_copies,      ///< Of the shards of a group of ranks.
  gradients,         ///< Accumulated, from commit to step.
  master_weights,    ///< fp32, or their lower halves; none where a parameter is its own.
  optimizer_states,  ///< Of the optimizer, and what extents are rounded up by.
  staging,           ///< For transfers to and from tiers that are not addressable.
  exchange,          ///< What device and host tell each other: norms, exports.
  gathered,          ///< Working memory: gathered parameters, prefetched ones among them.
  gradient_buffers,  ///< Working memory: gradients from their lease to their reduction.
  written,           ///< Working memory: write leases.
  activations,       ///< Checkpoints between forward and backward: no engine has them.
  disk_cache,        ///< Of a CachedTier: no engine has it.
};

constexpr std::string_view to_string(MemoryPurpose purpose) noexcept {
  constexpr std::string_view names[]{"parameters",       "replicas",    "group copies", "gradients", "master weights",
                                     "optimizer states", "staging",     "exchange",     "gathered",  "gradient buffers",
                                     "written",          "activations", "disk cache"};
  return names[static_cast<std::size_t>(purpose)];
}

/// Memory of one purpose in one place, on this rank.
struct MemoryLine {
  MemoryPurpose purpose;
  std::string tier;         ///< Its name, or the arena's.
  Addressable addressable;  ///< Which memory it is in, if any.
  Bytes reserved;           ///< What declarations were admitted with; of working memory nothing is.
  Bytes used;               ///< Taken now; from the end of declaration on.
  Bytes peak;               ///< The most that was taken at once.

  friend bool operator==(const MemoryLine&, const MemoryLine&) = default;
};

struct MemoryAccount {
  std::vector<MemoryLine> lines;  ///< In the order of purposes; none of which all is 0.
  Bytes working;                  ///< The memory that gathered parameters and gradients come and go in.

  friend bool operator==(const MemoryAccount&, const MemoryAccount&) = default;
};

}  // namespace zerospan::inline v0
