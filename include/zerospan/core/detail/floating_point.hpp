/// @file
/// The mode of a thread's floating-point unit in which zerospan's results are those of IEEE 754.
#pragma once

#include <cfenv>
#include <limits>
#include <source_location>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// Whether the calling thread computes with denormal numbers: takes them as operands (not DAZ) and gives them as
/// results (not FTZ). Found by computing, so that it holds for every processor.
inline bool computes_with_denormals() noexcept {
  const volatile float smallest_normal = std::numeric_limits<float>::min();
  const volatile float smallest = std::numeric_limits<float>::denorm_min();
  const volatile float half = smallest_normal * 0.5F;
  const volatile float multiple = smallest * 0x1p24F;
  constexpr float half_in_compilation = std::numeric_limits<float>::min() / 2;
  return half == half_in_compilation && multiple == 0x1p-125F;
}

/// Whether the calling thread rounds to nearest, ties to even.
inline bool rounds_to_nearest() noexcept { return std::fegetround() == FE_TONEAREST; }

/// Refuses modes in which the same operations give other bits. A thread has its mode from the one that started it; a
/// program or a shared library that GCC linked with -Ofast or -ffast-math sets FTZ and DAZ when it is loaded.
/// @throws ConfigurationError if the calling thread flushes denormal numbers to zero, or does not round to nearest.
inline void check_floating_point_environment(std::source_location where = std::source_location::current()) {
  if (!computes_with_denormals()) {
    throw_configuration_error(
        "this thread flushes denormal numbers to zero (FTZ or DAZ), which changes results: link the program and its "
        "shared libraries without -Ofast and -ffast-math, or clear the mode before the engine is made (on x86 "
        "_mm_setcsr(_mm_getcsr() & ~0x8040)), and set it around kernels alone",
        where);
  }
  if (!rounds_to_nearest()) {
    throw_configuration_error(
        "this thread does not round to nearest, which changes results: call std::fesetround(FE_TONEAREST) before the "
        "engine is made, and set other modes around kernels alone",
        where);
  }
}

}  // namespace zerospan::inline v0::detail
