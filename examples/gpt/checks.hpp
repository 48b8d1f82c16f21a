/// @file
/// Tiers with checksums, where the program was built with xxHash.
#pragma once

#include <deque>

#include <zerospan/tier/offload_tier.hpp>

#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/adapters/checked_tier.hpp>
#endif

namespace gpt {

#if defined(ZEROSPAN_HAS_XXHASH)
/// Tiers over others, which outlive them.
template <zerospan::OffloadTier T>
class Checks {
 public:
  zerospan::TierRef over(T& tier) { return checked_.emplace_back(tier); }

 private:
  std::deque<zerospan::CheckedTier<T>> checked_;
};
#else
/// The tiers themselves: `validate` refuses --checksums on.
template <zerospan::OffloadTier T>
struct Checks {
  static zerospan::TierRef over(T& tier) { return tier; }
};
#endif

}  // namespace gpt
