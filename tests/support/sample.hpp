/// @file
/// Fewer repetitions where each takes long.
#pragma once

#include <cstddef>

namespace zerospan_test {

#if defined(ZEROSPAN_SANITIZED)
inline constexpr bool is_sanitized = true;
#else
inline constexpr bool is_sanitized = false;
#endif

/// Takes all combinations of a loop, and one of `stride` under a sanitizer, which watches how each is done and not what
/// comes of it. The first is taken; a stride that the lengths of inner loops do not divide takes every value of each.
class Sample {
 public:
  explicit constexpr Sample(std::size_t stride) : stride_{is_sanitized ? stride : 1} {}

  constexpr bool takes() { return count_++ % stride_ == 0; }

 private:
  std::size_t stride_;
  std::size_t count_ = 0;
};

}  // namespace zerospan_test
