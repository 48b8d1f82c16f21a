/// @file
/// HostTier: states that rest in (pinned) host memory.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/tier/detail/memory_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// Extents in a device's `host_memory()`, under its budget.
class HostTier : public detail::MemoryTier {
 public:
  template <Device D>
  explicit HostTier(D& device) : HostTier{device.host_memory()} {}

  explicit HostTier(Arena& arena) noexcept : detail::MemoryTier{arena, Addressable::on_host} {}
};

static_assert(OffloadTier<HostTier>);

}  // namespace zerospan::inline v0
