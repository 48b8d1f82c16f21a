/// @file
/// What the targets for libFuzzer have in common.
#pragma once

#include <sanitizer/allocator_interface.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace zerospan_test {

/// Whatever is taken of memory at once, while it lasts, is in proportion to the bytes that there are.
class AllocationLimit {
 public:
  explicit AllocationLimit(std::size_t bytes_there) {
    static const int installed = __sanitizer_install_malloc_and_free_hooks(check, [](const volatile void*) {});
    if (installed == 0) std::abort();
    limit() = 4096 + 16 * bytes_there;
  }
  AllocationLimit(const AllocationLimit&) = delete;
  AllocationLimit& operator=(const AllocationLimit&) = delete;
  ~AllocationLimit() { limit() = SIZE_MAX; }

 private:
  static std::size_t& limit() {
    static std::size_t bytes = SIZE_MAX;
    return bytes;
  }
  static void check(const volatile void*, std::size_t bytes) {
    if (bytes <= limit()) return;
    std::fprintf(stderr, "%zu bytes are taken, more than %zu\n", bytes, limit());
    std::abort();
  }
};

inline void demand(bool is_so, const char* what) {
  if (is_so) return;
  std::fprintf(stderr, "it is not so: %s\n", what);
  std::abort();
}

}  // namespace zerospan_test
