/// @file
/// ReservedSpace: what has been set aside on the tiers of a placement, and not been placed yet.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

class ReservedSpace {
 public:
  using Counts = std::array<std::size_t, state_kinds>;  ///< Bytes of each kind.

  /// @param placement Outlives it.
  explicit ReservedSpace(const Placement& placement) noexcept : placement_{placement} {}

  /// Bytes reserved and not placed.
  const Counts& counts() const noexcept { return counts_; }

  /// @throws as OffloadTier::reserve.
  void reserve(StateKind kind, std::size_t bytes, std::string_view what) {
    placement_.tier(kind).reserve(Bytes{bytes}, what);
    count(kind) += bytes;
  }

  /// Reserves space for an optimizer's states, each share of them where it will rest.
  void reserve_states(std::size_t bytes, std::string_view what) {
    const double fraction = placement_.optimizer_share ? placement_.optimizer_share->fraction : 0;
    const auto shared = static_cast<std::size_t>(fraction * static_cast<double>(bytes));
    if (shared > 0) reserve(StateKind::optimizer_share, shared, what);
    reserve(StateKind::optimizer, bytes - shared, what);
  }

  /// Places what was reserved.
  Extent place(StateKind kind, std::size_t bytes) {
    const Extent extent = placement_.tier(kind).place(bytes);
    count(kind) -= std::min(count(kind), bytes);
    return extent;
  }

  /// Gives up what was reserved since the counts were `before`.
  void cancel_since(const Counts& before) noexcept {
    for (std::size_t k = 0; k < state_kinds; ++k) {
      placement_.tier(static_cast<StateKind>(k)).cancel(Bytes{counts_[k] - before[k]});
    }
    counts_ = before;
  }

 private:
  std::size_t& count(StateKind kind) noexcept { return counts_[static_cast<std::size_t>(kind)]; }

  const Placement& placement_;
  Counts counts_{};
};

}  // namespace zerospan::inline v0::detail
