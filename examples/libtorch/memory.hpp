/// @file
/// A rank's memory and tiers, and a cap on the memory of the whole process.
#pragma once

#include <sys/resource.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#include "options.hpp"

/// Caps what the process may map privately and write to: heap, anonymous mappings, stacks of threads. A device's
/// budgets count in full from the start, though their pages come as they are touched.
/// @param bytes 0: no cap.
inline void cap_memory(std::uint64_t bytes) {
  if (bytes == 0) return;
  const ::rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
  if (::setrlimit(RLIMIT_DATA, &limit) != 0) {
    throw std::system_error{errno, std::generic_category(), "setrlimit(RLIMIT_DATA)"};
  }
}

class RankMemory {
 public:
  explicit RankMemory(const Options& options)
      : device_{{.device_budget = {options.device_budget}, .host_budget = {options.host_budget}}},
        on_device_{device_},
        on_host_{device_},
        on_disk_{io_, {.directory = options.nvme_path.string()}} {}

  zerospan::HostDevice& device() { return device_; }

  zerospan::Placement placement(const Options& options) {
    return {.parameters = tier(options.parameters),
            .gradients = tier(options.gradients),
            .optimizer = tier(options.optimizer)};
  }

 private:
  zerospan::TierRef tier(TierKind kind) {
    switch (kind) {
      case TierKind::device:
        return on_device_;
      case TierKind::host:
        return on_host_;
      case TierKind::nvme:
        break;
    }
    return on_disk_;
  }

  zerospan::HostDevice device_;
  zerospan::ThreadedIoEngine io_;
  zerospan::DeviceTier on_device_;
  zerospan::HostTier on_host_;
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> on_disk_;
};
