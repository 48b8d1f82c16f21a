/// @file
/// What every header of zerospan relies on: the ABI namespace and the arithmetic it refuses.
#pragma once

#include <cstddef>

#if defined(__FAST_MATH__)
#error "zerospan's results are exact by contract: compile without -ffast-math (or -Ofast)."
#endif

namespace zerospan::inline v0 {

/// Elements in one logical block: the grain of shard boundaries and of the gradient norm.
/// It does not depend on the tier, the world size or the element type, so that neither do the numbers.
inline constexpr std::size_t block_elements = 1024;

}  // namespace zerospan::inline v0
