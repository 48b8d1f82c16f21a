/// @file
/// MemoryTier: what DeviceTier and HostTier have in common, extents in an arena.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/tier/detail/extents.hpp>
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
  const Arena* arena() const noexcept { return arena_; }

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
    extents_.insert(extent, std::move(allocation));
    outstanding_ -= std::min(outstanding_, bytes);
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    if (const auto* taken = extents_.find(extent)) extents_.erase(*taken);
  }

  /// @throws ConfigurationError if the extent is not placed here.
  std::byte* view(const Extent& extent) {
    if (extent.bytes == 0) return nullptr;
    const std::scoped_lock lock{mutex_};
    if (const auto* taken = extents_.holder(extent)) {
      return taken->value.data() + (extent.offset - taken->extent.offset);
    }
    throw_configuration_error("an extent of " + std::to_string(extent.bytes) + " bytes is not placed in " +
                              arena_->name());
  }

  /// @throws ConfigurationError if the range leaves the extent, or the host has no access to the memory.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    if (const std::byte* source = locate("read", extent, offset, bytes)) std::memcpy(data, source, bytes);
    return {};
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    if (std::byte* target = locate("write", extent, offset, bytes)) std::memcpy(target, data, bytes);
    return {};
  }

  TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return {.used = extents_.used(), .peak = extents_.peak(), .read = Bytes{0}, .written = Bytes{0}};
  }

 private:
  /// The memory of a range, nullptr if it is empty.
  std::byte* locate(std::string_view operation, const Extent& extent, std::size_t offset, std::size_t bytes) {
    if (access_ == HostAccess::denied) {
      throw_configuration_error(
          arena_->name() +
          " is memory of a device that the host cannot touch: its tier is used as it is, not below a cache, stripes, "
          "checksums or a throttle");
    }
    TransferName{operation, extent, offset, bytes, arena_->name()}.check_inside();
    std::byte* memory = view(extent);
    return bytes == 0 ? nullptr : memory + offset;
  }

  Arena* arena_;
  Addressable addressable_;
  HostAccess access_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
  mutable std::mutex mutex_;     // of extents_, which only the engine's caller changes
  ExtentMap<Allocation> extents_;
};

static_assert(OffloadTier<MemoryTier>);

}  // namespace zerospan::inline v0::detail
