/// @file
/// Tiers with checksums, where the program was built with xxHash.
#pragma once

#include <deque>

#include <zerospan/tier/offload_tier.hpp>

#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/tier/checked_tier.hpp>
#endif

namespace gpt {

#if defined(ZEROSPAN_HAS_XXHASH)
/// Tiers over others, which outlive them.
class Checks {
 public:
  zerospan::TierRef over(zerospan::TierRef tier) { return checked_.emplace_back(tier); }

 private:
  std::deque<zerospan::CheckedTier> checked_;
};
#else
/// The tiers themselves: `validate` refuses --checksums on.
struct Checks {
  static zerospan::TierRef over(zerospan::TierRef tier) { return tier; }
};
#endif

}  // namespace gpt
