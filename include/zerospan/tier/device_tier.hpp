/// @file
/// DeviceTier: states that rest in device memory, beside what is gathered there.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/tier/detail/memory_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// Extents in a device's `memory()`, under its budget.
class DeviceTier : public detail::MemoryTier {
 public:
  template <Device D>
  explicit DeviceTier(D& device)
      : detail::MemoryTier{device.memory(), Addressable::on_device,
                           D::lanes_type::is_unified ? HostAccess::granted : HostAccess::denied} {}

  explicit DeviceTier(Arena& arena) noexcept : detail::MemoryTier{arena, Addressable::on_device} {}
};

static_assert(OffloadTier<DeviceTier>);

}  // namespace zerospan::inline v0
