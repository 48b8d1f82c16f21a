/// @file
/// Which vector instructions this processor has.
#pragma once

#include <cstdint>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// The bodies that a kernel may have. All of them give the same bits; they differ in speed alone.
enum class InstructionSet : std::uint8_t { scalar, avx2 };

constexpr const char* to_string(InstructionSet set) noexcept { return set == InstructionSet::avx2 ? "avx2" : "scalar"; }

/// The best one that this processor runs (`avx2` stands for AVX2, FMA and F16C). A few loads: kernels ask at every
/// call.
inline InstructionSet best_instruction_set() noexcept {
#if defined(__x86_64__)
#if defined(__clang__)
  constexpr bool has_f16c = true;  // clang cannot ask; F16C is older than AVX2, and no processor has the latter alone
#else
  const bool has_f16c = __builtin_cpu_supports("f16c") != 0;
#endif
  if (has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
#endif
  return InstructionSet::scalar;
}

}  // namespace zerospan::inline v0
