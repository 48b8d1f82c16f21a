/// @file
/// What a process has on its heap, by which tests see that something does not grow.
#pragma once

#include <malloc.h>

#include <cstddef>

namespace zerospan_test {

/// Bytes that the process has taken from its heap and not given back. A sanitizer's heap does not count them.
inline std::size_t heap_in_use() {
  const struct ::mallinfo2 all = ::mallinfo2();
  return all.uordblks + all.hblkhd;
}

/// How much more of the heap is in use after `act(i)` for every i below `count` than after the first tenth of them,
/// which may fill what is kept for good.
template <class Act>
std::ptrdiff_t heap_growth(int count, Act act) {
  std::size_t before = 0;
  for (int i = 0; i < count; ++i) {
    if (i == count / 10) before = heap_in_use();
    act(i);
  }
  return static_cast<std::ptrdiff_t>(heap_in_use()) - static_cast<std::ptrdiff_t>(before);
}

}  // namespace zerospan_test
