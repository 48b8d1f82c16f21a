/// @file
/// HostDevice: the CPU as a device, with an arena in place of GPU memory.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/host_lanes.hpp>

namespace zerospan::inline v0 {

struct HostDeviceOptions {
  Bytes device_budget = 1_GiB;  ///< Gathered parameters, gradients, working buffers, and the device tier.
  Bytes host_budget = 1_GiB;    ///< Staging buffers and the host tier.
};

/// Ordinary memory, split into a part that plays the device's and a part that plays the host's, each an arena under a
/// hard budget, backed by huge pages. Address space is set aside at once, memory only as it is touched.
class HostDevice {
 public:
  using lanes_type = HostLanes;

  /// @throws ConfigurationError if the address space cannot be had.
  explicit HostDevice(HostDeviceOptions options = {})
      : memory_{"device memory", map(options.device_budget), options.device_budget},
        host_memory_{"host memory", map(options.host_budget), options.host_budget} {}

  Arena& memory() noexcept { return memory_; }
  Arena& host_memory() noexcept { return host_memory_; }

 private:
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
  static constexpr std::size_t most_bytes = std::size_t{1} << 62;

  static std::shared_ptr<std::byte> map(Bytes budget) {
    const std::size_t bytes = round_up(budget.count, huge_page) + huge_page;
    if (bytes < budget.count) refuse(budget, EOVERFLOW);
    void* mapping = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) refuse(budget, errno);
    const std::shared_ptr<void> owner{mapping, [bytes](void* begin) { ::munmap(begin, bytes); }};
    void* aligned = mapping;
    std::size_t space = bytes;
    std::align(huge_page, bytes - huge_page, aligned, space);
    ::madvise(aligned, bytes - huge_page, MADV_HUGEPAGE);  // advice: refusing it changes speed alone
    return {owner, static_cast<std::byte*>(aligned)};
  }

  [[noreturn]] static void refuse(Bytes budget, int error_number) {
    throw_configuration_error("no address space for a budget of " + std::to_string(budget.count) + " bytes (errno " +
                              std::to_string(error_number) + ")");
  }

  Arena memory_;
  Arena host_memory_;
};

static_assert(Device<HostDevice>);

}  // namespace zerospan::inline v0
