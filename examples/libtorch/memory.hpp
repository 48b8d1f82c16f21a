/// @file
/// A rank's memory and tiers, and a cap on the memory of the whole process.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <system_error>

#include <ATen/ATen.h>

#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#include "options.hpp"

/// Bytes that the process maps privately and may write to: heap, anonymous mappings, stacks of threads.
inline std::uint64_t mapped_bytes() {
  std::uint64_t pages = 0;
  std::ifstream file{"/proc/self/statm"};
  for (int field = 0; field < 6; ++field) file >> pages;  // the sixth: data and stack
  if (!file) throw std::runtime_error{"cannot read /proc/self/statm"};
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// Caps what the process may map so from now on. A device's budgets count in full from the start, though their pages
/// come as they are touched.
/// @param bytes Beside what libtorch has taken for itself; 0: no cap.
inline void cap_memory(std::uint64_t bytes) {
  if (bytes == 0) return;
  // OpenBLAS takes its buffers at the first large product, and waits forever for them where there is no memory left.
  static_cast<void>(at::ones({512, 512}).matmul(at::ones({512, 512})));
  const std::uint64_t most = mapped_bytes() + bytes;
  const ::rlimit limit{.rlim_cur = most, .rlim_max = most};
  if (::setrlimit(RLIMIT_DATA, &limit) != 0) {
    throw std::system_error{errno, std::generic_category(), "setrlimit(RLIMIT_DATA)"};
  }
}

class RankMemory {
 public:
  explicit RankMemory(const Options& options)
      : device_{{.device_budget = zerospan::Bytes{options.device_budget},
                 .host_budget = zerospan::Bytes{options.host_budget}}},
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
