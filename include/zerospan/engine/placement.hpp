/// @file
/// Placement: where each kind of model state rests.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// A share of something, on a tier of its own.
struct TierShare {
  TierRef tier;
  double fraction;  ///< In (0, 1).
};

/// What is placed; each kind on one tier.
enum class StateKind : std::uint8_t { parameters, gradients, optimizer, optimizer_share, group_copies };

inline constexpr std::size_t state_kinds = 5;

struct Placement {
  TierRef parameters;  ///< Shards of parameters (stage 3); below stage 3 whole parameters stay in device memory.
  TierRef gradients;   ///< Accumulated gradients. Stages 0 and 1 keep whole gradients: addressable memory only.
  TierRef optimizer;   ///< fp32 master weights and the optimizer's states, in sub-groups. Parameters in fp32 that rest
                       ///< here too, or in memory where they are updated in place, are their own master weights.

  /// A share of the sub-groups that rests elsewhere: where part of the states is in device memory and the rest is not,
  /// device and host update at once (Twin-Flow, arXiv 2101.06840 carried further).
  std::optional<TierShare> optimizer_share = std::nullopt;

  /// Where given, gathers go across groups of ranks once after each step, and each rank keeps its part of its group's
  /// copy here: 1 / (ranks of a group) of the parameters (hpZ of ZeRO++, arXiv 2306.10209). For a `Grouped`
  /// communicator and stage 3.
  std::optional<TierRef> group_copies = std::nullopt;

  /// Where a kind rests. Without a share, that is where all of it is; without group copies, none are.
  TierRef tier(StateKind kind) const {
    switch (kind) {
      case StateKind::parameters:
        return parameters;
      case StateKind::gradients:
        return gradients;
      case StateKind::optimizer_share:
        if (optimizer_share) return optimizer_share->tier;
        break;
      case StateKind::group_copies:
        return group_copies.value_or(parameters);
      case StateKind::optimizer:
        break;
    }
    return optimizer;
  }

  /// The tiers of all kinds.
  std::array<TierRef, state_kinds> tiers() const {
    return {parameters, gradients, optimizer, tier(StateKind::optimizer_share), tier(StateKind::group_copies)};
  }

  /// Whether anything rests on a tier that is addressable there.
  bool uses(Addressable addressable) const {
    return std::ranges::any_of(tiers(), [&](TierRef tier) { return tier.addressable() == addressable; });
  }
};

}  // namespace zerospan::inline v0
