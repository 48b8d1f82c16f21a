/// @file
/// PlannedDisk: a disk that has space to deal out, and no bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/file_backed_extents.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::plan::detail {

/// Admits, deals out, counts and refuses as an NvmeTier of that capacity and alignment. Transfers are counted alone.
class PlannedDisk final : public FileBackedExtents {
 public:
  explicit PlannedDisk(const Disk& disk)
      : alignment_{disk.alignment},
        grain_{std::max(disk.alignment, std::size_t{4096})},
        capacity_{std::min(disk.capacity.count, Extents::most_bytes) / grain_ * grain_} {}
  PlannedDisk(const PlannedDisk&) = delete;
  PlannedDisk& operator=(const PlannedDisk&) = delete;
  ~PlannedDisk() = default;

  std::string_view name() const noexcept { return "the NVMe tier"; }
  std::size_t alignment() const noexcept { return alignment_; }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  void reserve(Bytes bytes, std::string_view what) {
    const std::size_t available = capacity_ - std::min(capacity_, extents_.used().count + outstanding_);
    if (bytes.count > available) refuse(std::string{what}, bytes, Bytes{available});
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept { outstanding_ -= std::min(outstanding_, bytes.count); }

  Extent place(std::size_t bytes) {
    if (bytes == 0) return {};
    if (bytes > capacity_) refuse("an extent", Bytes{bytes}, Bytes{capacity_});
    const std::size_t rounded = round_up(bytes, grain_);
    const Extent extent{extents_.first_fit(rounded), rounded};
    if (extent.offset > capacity_ - rounded) {
      refuse("an extent", Bytes{rounded}, Bytes{capacity_ - std::min<std::size_t>(capacity_, extent.offset)});
    }
    extents_.insert(extent, {});
    outstanding_ -= std::min(outstanding_, bytes);
    return extent;
  }

  void remove(const Extent& extent) noexcept {
    if (const auto* taken = extents_.find(extent)) extents_.erase(*taken);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }
  Completion read(const Extent&, std::size_t, std::byte*, std::size_t bytes) noexcept {
    read_ += bytes;
    return {};
  }
  Completion write(const Extent&, std::size_t, const std::byte*, std::size_t bytes) noexcept {
    written_ += bytes;
    return {};
  }
  TierCounters counters() const noexcept { return {extents_.used(), extents_.peak(), Bytes{read_}, Bytes{written_}}; }

  FileBackedExtents* file_backed() noexcept { return this; }
  void back(const Extent&, std::size_t, std::size_t, BackedBytes) override {
    throw_configuration_error("nothing is imported in a plan");
  }
  void clear(const Extent&, std::size_t, std::size_t) override {}

 private:
  struct Nothing {};
  using Extents = zerospan::detail::ExtentMap<Nothing>;

  [[noreturn]] static void refuse(const std::string& what, Bytes requested, Bytes available) {
    throw_budget_error(what + " on the NVMe tier", requested, available, "raise its capacity, or choose another tier");
  }

  std::size_t alignment_;
  std::size_t grain_;
  std::size_t capacity_;
  Extents extents_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
  std::size_t read_ = 0;
  std::size_t written_ = 0;
};

static_assert(OffloadTier<PlannedDisk>);

}  // namespace zerospan::inline v0::plan::detail
