/// @file
/// The kernels that OpenBLAS chooses for this processor, and better ones where it does not know it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include <cblas.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <zerospan/kernels/cpu.hpp>

namespace gpt::openblas {

/// Which of the instructions that matrix kernels are written for a processor has.
struct VectorUnits {
  bool avx2 = false;    ///< With multiply-adds.
  bool avx512 = false;  ///< Of the kinds that all processors with AVX-512 have since Skylake.
};

inline VectorUnits vector_units() {
  VectorUnits units;
#if defined(__x86_64__)
  units.avx2 = zerospan::has_avx2(zerospan::best_instruction_set());
  units.avx512 = units.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl");
#endif
  return units;
}

/// What OpenBLAS calls its kernels that have no AVX2: processors that it does not know get one of the oldest.
inline bool is_older_than_avx2(std::string_view core) {
  constexpr std::array<std::string_view, 23> names{
      "Unknown", "Generic", "Katmai",     "Coppermine",  "Northwood",  "Prescott",    "Banias",       "Atom",
      "Core2",   "Penryn",  "Dunnington", "Nehalem",     "Athlon",     "Opteron",     "Opteron_SSE3", "Barcelona",
      "Nano",    "Bobcat",  "Bulldozer",  "Sandybridge", "Piledriver", "Steamroller", "Excavator"};
  return std::ranges::find(names, core) != names.end();
}

/// The kernels that a processor should have, where OpenBLAS has chosen older ones for it. Kernels with a name that is
/// not known here are newer, and OpenBLAS knows why it takes them; so are AMD's for AVX2 on a processor with AVX-512.
/// @param core What it has chosen. @param tried What it was asked for before, and has not, or not for this processor.
inline std::optional<std::string_view> better_core(VectorUnits units, std::string_view core,
                                                   std::string_view tried = {}) {
  constexpr std::string_view avx512 = "SkylakeX";
  constexpr std::string_view avx2 = "Haswell";
  const bool is_old = is_older_than_avx2(core);
  if (units.avx512 && (is_old || core == avx2) && tried.empty()) return avx512;
  if (units.avx2 && is_old && tried != avx2) return avx2;
  return std::nullopt;
}

/// What OpenBLAS reads when it is loaded.
inline constexpr const char* core_variable = "OPENBLAS_CORETYPE";

/// In which a program that starts again tells itself what OpenBLAS had chosen by itself.
inline constexpr const char* former_core_variable = "ZEROSPAN_FORMER_OPENBLAS_CORE";

namespace detail {

/// Whether this library has kernels for several processors, and chooses.
inline bool has_choice() { return std::string_view{::openblas_get_config()}.find("DYNAMIC_ARCH") != std::string::npos; }

/// A program that was started by calling the dynamic loader is not its own executable.
inline bool can_start_again() { return ::getauxval(AT_BASE) != 0; }

inline std::string in_environment(const char* variable) {
  const char* const value = std::getenv(variable);
  return value ? value : "";
}

}  // namespace detail

/// Starts this program again, once or twice, if OpenBLAS has kernels for this processor that it does not take by
/// itself: it reads OPENBLAS_CORETYPE when it is loaded, which is before main. What the user has said there stays. To
/// be called first in main: nothing of the program but its arguments and its environment is there afterwards.
/// @return If there is nothing to be gained, or if it cannot start again.
inline void choose_kernels(char** argv) {
  const char* const asked = std::getenv(core_variable);
  const char* const former = std::getenv(former_core_variable);
  if ((asked && !former) || !detail::has_choice() || !detail::can_start_again()) return;
  const std::string core = ::openblas_get_corename();
  const auto better = better_core(vector_units(), core, asked ? asked : "");
  if (!better) return;
  ::setenv(former_core_variable, former ? former : core.c_str(), 1);
  ::setenv(core_variable, std::string{*better}.c_str(), 1);
  ::execv("/proc/self/exe", argv);
  ::unsetenv(core_variable);
  ::unsetenv(former_core_variable);
}

/// What is to be said of the kernels, after `choose_kernels`.
struct Kernels {
  std::string core;
  std::string remark;  ///< Who has chosen them, if not OpenBLAS, and whether others would be faster; or empty.
};

/// @param asked,former What the two variables say; empty: nothing.
inline Kernels describe_kernels(VectorUnits units, const std::string& core, const std::string& asked,
                                const std::string& former) {
  const auto better = better_core(units, core);
  const std::string has = units.avx512 ? "AVX-512" : "AVX2";
  if (better && !asked.empty() && former.empty()) {
    return {core, std::string{"WARNING: "} + core_variable + "=" + asked + " is set, and this processor has " + has +
                      ": the kernels for " + std::string{*better} + " are faster"};
  }
  if (better) {
    return {core, "WARNING: it does not know this processor, which has " + has + ": " + core_variable + "=" +
                      std::string{*better} + " in the environment is faster, if it has those kernels"};
  }
  if (!former.empty()) {
    return {core, "by itself it takes those for " + former + ": it does not know this processor, which has " + has};
  }
  if (!asked.empty()) return {core, std::string{core_variable} + "=" + asked + " is set"};
  return {core, ""};
}

inline Kernels kernels() {
  return describe_kernels(vector_units(), ::openblas_get_corename(), detail::in_environment(core_variable),
                          detail::in_environment(former_core_variable));
}

}  // namespace gpt::openblas
