/// @file
/// TierSpace: an extent that is set aside on a tier and goes back with the object.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// The tier outlives it.
class TierSpace {
 public:
  /// @throws BudgetError, or IoError when the disk is full; nothing is taken then.
  TierSpace(TierRef tier, Bytes bytes, std::string_view what) : tier_{tier} {
    tier.reserve(bytes, what);
    try {
      extent_ = tier.place(bytes.count);
    } catch (...) {
      tier.cancel(bytes);
      throw;
    }
  }
  TierSpace(const TierSpace&) = delete;
  TierSpace& operator=(const TierSpace&) = delete;
  ~TierSpace() { give_back(); }

  TierRef tier() const noexcept { return tier_; }
  const Extent& extent() const noexcept { return extent_; }

  void give_back() noexcept {
    const Extent extent = std::exchange(extent_, {});
    if (extent.bytes > 0) tier_.remove(extent);
  }

  /// Leaves the extent taken: something may still use it.
  void forfeit() noexcept { extent_ = {}; }

 private:
  TierRef tier_;
  Extent extent_;
};

}  // namespace zerospan::inline v0::detail
