/// @file
/// What every header of zerospan relies on: the ABI namespace, the compilers that serve, and the arithmetic it refuses.
#pragma once

// What cannot be compiled rightly is refused before anything else is read: after each #error, the header that does not
// exist stops the compiler.
#if defined(__clang__) ? __clang_major__ < 16 : defined(__GNUC__) && __GNUC__ < 12
#error "zerospan needs GCC 12, Clang 16 or later (Debian 12's default clang is 14: install clang-16)."
#include "zerospan stops here"
#elif __cplusplus < 202002L
#error "zerospan needs C++20: compile with -std=c++20 or later."
#include "zerospan stops here"
#endif

// These options let compilers change results. Kernels that want them are compiled in source files that do not include
// zerospan; the program and its shared libraries are linked without them, as GCC links in what makes every thread flush
// denormal numbers to zero.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "zerospan is exact: no -Ofast, no -ffast-math. Kernels that want them take a source file without zerospan."
#include "zerospan stops here"
#endif

#include <cstddef>

namespace zerospan::inline v0 {

/// Elements in one logical block: the grain of shard boundaries and of the gradient norm.
/// It does not depend on the tier, the world size or the element type, so that neither do the numbers.
inline constexpr std::size_t block_elements = 1024;

}  // namespace zerospan::inline v0
