/// @file
/// StreamDevice: a device with memory, streams and events of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/detail/stream_lanes.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0 {

struct StreamDeviceOptions {
  Bytes device_budget = 1_GiB;  ///< Gathered parameters, gradients, working buffers, and the device tier.
  Bytes host_budget = 1_GiB;    ///< Staging buffers and the host tier; pinned.
};

/// Device memory and pinned host memory, each an arena under a hard budget that is taken at once, to the byte.
template <StreamRuntime R>
class StreamDevice {
 public:
  using lanes_type = detail::StreamLanes<R>;

  /// @throws BudgetError if the device or the host has less memory than the budgets.
  explicit StreamDevice(R runtime, const StreamDeviceOptions& options = {})
      : runtime_{std::make_unique<R>(std::move(runtime))},
        memory_{"device memory", runtime_->allocate_device(options.device_budget), options.device_budget},
        host_memory_{"host memory", runtime_->allocate_host(options.host_budget), options.host_budget} {}

  Arena& memory() noexcept { return memory_; }
  Arena& host_memory() noexcept { return host_memory_; }

  R& runtime() noexcept { return *runtime_; }

  /// A number that no other completion of this device has.
  std::uint64_t next_ticket() noexcept { return ++tickets_; }

 private:
  std::unique_ptr<R> runtime_;
  std::atomic<std::uint64_t> tickets_ = 0;
  Arena memory_;
  Arena host_memory_;
};

}  // namespace zerospan::inline v0
