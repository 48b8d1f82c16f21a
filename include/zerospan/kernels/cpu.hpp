/// @file
/// Which vector instructions this processor has.
#pragma once

#include <cstdint>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// The bodies that a kernel may have, each of which needs more of a processor than the ones before it. All of them give
/// the same bits; they differ in speed alone. A kernel without a body for a set runs that of the set before it.
enum class InstructionSet : std::uint8_t {
  scalar,
  avx2,    ///< AVX2, FMA and F16C.
  avx512,  ///< AVX-512F, and all of `avx2`.
};

constexpr const char* to_string(InstructionSet set) noexcept {
  switch (set) {
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::scalar:
      break;
  }
  return "scalar";
}

/// Whether what runs `set` has AVX2, FMA and F16C.
constexpr bool has_avx2(InstructionSet set) noexcept { return set >= InstructionSet::avx2; }

/// The best one that this processor runs. A few loads: kernels ask at every call.
inline InstructionSet best_instruction_set() noexcept {
#if defined(__x86_64__)
#if defined(__clang__)
  constexpr bool has_f16c = true;  // clang cannot ask; F16C is older than AVX2, and no processor has the latter alone
#else
  const bool has_f16c = __builtin_cpu_supports("f16c") != 0;
#endif
  if (has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return __builtin_cpu_supports("avx512f") ? InstructionSet::avx512 : InstructionSet::avx2;
  }
#endif
  return InstructionSet::scalar;
}

}  // namespace zerospan::inline v0
