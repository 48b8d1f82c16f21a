/// @file
/// One rank's memory and tiers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif

#include "options.hpp"

namespace gpt {

/// A disk is opened only where the options place something on it.
class RankStorage {
 public:
  RankStorage(const Options& options, std::size_t rank)
      : device_{{.device_budget = {options.device_budget}, .host_budget = {options.host_budget}}},
        on_device_{device_},
        on_host_{device_} {
    const auto uses_disk = {options.parameters, options.gradients, options.optimizer};
    if (std::ranges::find(uses_disk, TierKind::nvme) != uses_disk.end()) {
      open_disk(options.nvme_path[rank % options.nvme_path.size()].string());
    }
  }

  zerospan::HostDevice& device() { return device_; }

  zerospan::Placement placement(const Options& options) {
    return {.parameters = tier(options.parameters),
            .gradients = tier(options.gradients),
            .optimizer = tier(options.optimizer)};
  }

  /// What is and was placed on disk; zeros without one.
  zerospan::TierCounters disk() const { return on_disk_ ? on_disk_->counters() : zerospan::TierCounters{}; }

 private:
  template <class Io>
  struct Disk {
    explicit Disk(const std::string& directory) : tier{io, {.directory = directory}} {}
    Io io;
    zerospan::NvmeTier<Io> tier;
  };

  void open_disk(const std::string& directory) {
#if defined(ZEROSPAN_HAS_LIBAIO)
    if (zerospan::LibaioEngine::available()) return open_disk_through<zerospan::LibaioEngine>(directory);
#endif
    open_disk_through<zerospan::ThreadedIoEngine>(directory);
  }

  template <class Io>
  void open_disk_through(const std::string& directory) {
    const auto disk = std::make_shared<Disk<Io>>(directory);
    on_disk_.emplace(disk->tier);
    disk_ = disk;
  }

  zerospan::TierRef tier(TierKind kind) {
    switch (kind) {
      case TierKind::device:
        return on_device_;
      case TierKind::host:
        return on_host_;
      case TierKind::nvme:
        break;
    }
    return *on_disk_;
  }

  zerospan::HostDevice device_;
  zerospan::DeviceTier on_device_;
  zerospan::HostTier on_host_;
  std::shared_ptr<void> disk_;
  std::optional<zerospan::TierRef> on_disk_;
};

}  // namespace gpt
