/// @file
/// MemoryTier: what DeviceTier and HostTier have in common, extents in an arena.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// Extents in an arena, usable in place. An extent's offset is its address. Transfers are copies by the calling
/// thread, which must be able to address the memory; they are done when the call returns.
///
/// A reservation is an admission against the free bytes of the arena; placing consumes it, and what is removed goes
/// back to the arena. Extents are aligned as the arena aligns, their sizes are not rounded. The arena outlives the
/// tier.
class MemoryTier {
 public:
  /// Whether the host's threads can touch the memory; otherwise the device's streams alone.
  enum class HostAccess : std::uint8_t { granted, denied };

  MemoryTier(Arena& arena, Addressable addressable, HostAccess access = HostAccess::granted) noexcept
      : arena_{&arena}, addressable_{addressable}, access_{access} {}
  MemoryTier(const MemoryTier&) = delete;
  MemoryTier& operator=(const MemoryTier&) = delete;

  std::string_view name() const noexcept { return arena_->name(); }
  std::size_t alignment() const noexcept { return 1; }
  Addressable addressable() const noexcept { return addressable_; }

  /// @throws BudgetError if the arena has fewer bytes free than were reserved and not placed so far.
  void reserve(Bytes bytes, std::string_view what) {
    const std::size_t taken = std::min(arena_->capacity().count, arena_->used().count + outstanding_);
    const Bytes available{arena_->capacity().count - taken};
    if (bytes > available) {
      throw_budget_error(std::string{what} + " in " + arena_->name(), bytes, available,
                         "raise its budget, or choose another tier");
    }
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept { outstanding_ -= std::min(outstanding_, bytes.count); }

  /// @param what Names the purpose in the error.
  /// @throws BudgetError if no range of that size is free. An extent of 0 bytes takes nothing.
  Extent place(std::size_t bytes, std::string_view what = "an extent") {
    if (bytes == 0) return {};
    Allocation allocation = arena_->allocate(Bytes{bytes}, what);
    const Extent extent{reinterpret_cast<std::uintptr_t>(allocation.data()), bytes};
    const std::scoped_lock lock{mutex_};
    extents_.emplace(extent.offset, std::move(allocation));
    outstanding_ -= std::min(outstanding_, bytes);
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return extent;
  }

  void remove(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    const auto found = extents_.find(extent.offset);
    if (found == extents_.end() || found->second.bytes() != extent.bytes) return;
    extents_.erase(found);
    used_ -= extent.bytes;
  }

  /// @throws ConfigurationError if the extent is not placed here.
  std::byte* view(const Extent& extent) {
    if (extent.bytes == 0) return nullptr;
    const std::scoped_lock lock{mutex_};
    const auto next = extents_.upper_bound(extent.offset);
    if (next != extents_.begin()) {
      const auto& [offset, allocation] = *std::prev(next);
      const std::size_t within = extent.offset - offset;
      if (within < allocation.bytes() && extent.bytes <= allocation.bytes() - within) return allocation.data() + within;
    }
    throw_configuration_error("an extent of " + std::to_string(extent.bytes) + " bytes is not placed in " +
                              arena_->name());
  }

  /// @throws ConfigurationError if the range leaves the extent, or the host has no access to the memory.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    if (const std::byte* source = locate(extent, offset, bytes)) std::memcpy(data, source, bytes);
    return {};
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    if (std::byte* target = locate(extent, offset, bytes)) std::memcpy(target, data, bytes);
    return {};
  }

  TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return {.used = Bytes{used_}, .peak = Bytes{peak_}, .read = Bytes{0}, .written = Bytes{0}};
  }

 private:
  /// The memory of a range, nullptr if it is empty.
  std::byte* locate(const Extent& extent, std::size_t offset, std::size_t bytes) {
    if (access_ == HostAccess::denied) {
      throw_configuration_error(
          arena_->name() +
          " is memory of a device that the host cannot touch: its tier is used as it is, not below a cache, stripes, "
          "checksums or a throttle");
    }
    if (offset > extent.bytes || bytes > extent.bytes - offset) {
      throw_configuration_error("a transfer of " + std::to_string(bytes) + " bytes at offset " +
                                std::to_string(offset) + " leaves an extent of " + std::to_string(extent.bytes) +
                                " bytes in " + arena_->name());
    }
    std::byte* memory = view(extent);
    return bytes == 0 ? nullptr : memory + offset;
  }

  Arena* arena_;
  Addressable addressable_;
  HostAccess access_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Allocation> extents_;  // by address
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

static_assert(OffloadTier<MemoryTier>);

}  // namespace zerospan::inline v0::detail
