/// @file
/// The program's `operator new`, of which a test is told: included by one source of a program that is not joined with
/// others.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace zerospan_test {

/// Defined by the source that includes this: called before each allocation, which fails if it throws std::bad_alloc.
void before_allocation();

inline void* allocate(std::size_t bytes, std::size_t alignment) {
  before_allocation();
  void* const memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc{};
  return memory;
}

}  // namespace zerospan_test

void* operator new(std::size_t bytes) { return zerospan_test::allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return zerospan_test::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
