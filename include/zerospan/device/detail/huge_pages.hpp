/// @file
/// Ordinary memory on huge pages: transfers of any kind are faster there.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <new>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

[[noreturn]] inline void refuse_mapping(Bytes bytes, int error_number) {
  throw_configuration_error("no address space for a budget of " + std::to_string(bytes.count) + " bytes (errno " +
                            std::to_string(error_number) + ")");
}

/// At least so many bytes, aligned to 2 MiB. Address space is set aside at once, memory only as it is touched.
/// @throws ConfigurationError if the address space cannot be had.
inline std::shared_ptr<std::byte> map_huge_pages(Bytes wanted) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  const std::size_t bytes = round_up(wanted.count, huge_page) + huge_page;
  if (bytes < wanted.count) refuse_mapping(wanted, EOVERFLOW);
  void* mapping = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) refuse_mapping(wanted, errno);
  const std::shared_ptr<void> owner{mapping, [bytes](void* begin) { ::munmap(begin, bytes); }};
  void* aligned = mapping;
  std::size_t space = bytes;
  std::align(huge_page, bytes - huge_page, aligned, space);
  ::madvise(aligned, bytes - huge_page, MADV_HUGEPAGE);  // advice: refusing it changes speed alone
  return {owner, static_cast<std::byte*>(aligned)};
}

/// Memory that transfers pass through, aligned for direct I/O; on huge pages if there is enough of it for one.
/// @throws ConfigurationError, std::bad_alloc if it cannot be had.
inline std::shared_ptr<std::byte> transfer_memory(Bytes wanted) {
  constexpr std::size_t large = std::size_t{2} << 20;
  constexpr std::align_val_t page{4096};
  if (wanted.count >= large) return map_huge_pages(wanted);
  return {static_cast<std::byte*>(::operator new(wanted.count, page)),
          [](std::byte* memory) { ::operator delete(memory, page); }};
}

}  // namespace zerospan::inline v0::detail
