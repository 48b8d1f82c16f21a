/// @file
/// HostDevice: the CPU as a device, with an arena in place of GPU memory.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/detail/host_lanes.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/device/device.hpp>

namespace zerospan::inline v0 {

struct HostDeviceOptions {
  Bytes device_budget = 1_GiB;  ///< Gathered parameters, gradients, working buffers, and the device tier.
  Bytes host_budget = 1_GiB;    ///< Staging buffers and the host tier.
};

/// Ordinary memory, split into a part that plays the device's and a part that plays the host's, each an arena under a
/// hard budget, backed by huge pages. Address space is set aside at once, memory only as it is touched.
class HostDevice {
 public:
  using lanes_type = detail::HostLanes;

  /// @throws ConfigurationError if the address space cannot be had.
  explicit HostDevice(HostDeviceOptions options = {})
      : memory_{"device memory", detail::map_huge_pages(options.device_budget), options.device_budget},
        host_memory_{"host memory", detail::map_huge_pages(options.host_budget), options.host_budget} {}

  Arena& memory() noexcept { return memory_; }
  Arena& host_memory() noexcept { return host_memory_; }

 private:
  Arena memory_;
  Arena host_memory_;
};

static_assert(Device<HostDevice>);

}  // namespace zerospan::inline v0
