/// @file
/// NvmeTier: states that rest in a file on a fast disk.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/detail/extent_map.hpp>
#include <zerospan/tier/detail/nvme_transfer.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct NvmeTierOptions {
  /// Where the file is made. It has no name there: jobs share a directory, and nothing remains of a job that crashed.
  std::string directory;

  /// Bytes of one request to the I/O engine; a multiple of the disk's alignment.
  Bytes block = 1_MiB;

  /// The most bytes that the file may have.
  Bytes capacity = Bytes{std::numeric_limits<std::size_t>::max()};

  /// How long the destructor waits for transfers whose end the I/O engine has not reported.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

/// Extents of one unnamed file, transferred in blocks that are all with the I/O engine at once, by direct I/O where the
/// file system allows it. Back the buffers with huge pages: transfers are about twice as fast.
///
/// Short transfers are continued, interrupted ones repeated; whatever fails is an IoError of the completion. Space is
/// allocated when it is reserved; placing consumes a reservation, and what is removed is dealt out again (first fit).
/// Extents begin and end at multiples of 4096 bytes, or of the disk's alignment if that is larger.
///
/// The engine outlives the tier. A tier that is destroyed waits for its transfers, but not for ever; one that ends
/// later still does so safely, and the file is closed after the last.
template <IoEngine E>
class NvmeTier {
 public:
  /// @throws ConfigurationError if the options contradict the disk, IoError if no file can be made in the directory.
  NvmeTier(E& engine, const NvmeTierOptions& options)
      : engine_{&engine},
        store_{std::make_shared<detail::NvmeStore>(options.directory)},
        block_{options.block.count},
        grain_{std::max(alignment(), std::size_t{4096})},
        capacity_{std::min(options.capacity.count, most_bytes) / grain_ * grain_},
        drain_timeout_{options.drain_timeout},
        name_{"NVMe tier (" + std::string{engine.name()} + ") in " + options.directory} {
    if (block_ == 0 || block_ % alignment() != 0) {
      throw_configuration_error("a block of " + std::to_string(block_) + " bytes is not a positive multiple of " +
                                std::to_string(alignment()) + ", the alignment of " + name_);
    }
  }

  NvmeTier(const NvmeTier&) = delete;
  NvmeTier& operator=(const NvmeTier&) = delete;

  ~NvmeTier() {
    std::unique_lock lock{store_->mutex};
    store_->drained.wait_for(lock, drain_timeout_, [&] { return store_->transfers == 0; });
  }

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const noexcept { return store_->file.alignment(); }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  /// Allocates disk space for `bytes` (blocking).
  /// @throws BudgetError beyond the capacity, IoError if the disk is full.
  void reserve(Bytes bytes, std::string_view what) {
    const std::size_t available = capacity_ - std::min(capacity_, extents_.used().count + outstanding_);
    if (bytes.count > available) refuse(std::string{what}, bytes, Bytes{available});
    store_->file.grow(extents_.used().count + round_up(outstanding_ + bytes.count, grain_), std::string{what});
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept { outstanding_ -= std::min(outstanding_, bytes.count); }

  /// Deals out `bytes`, rounded up; the extent tells how many they are. 0 bytes take nothing.
  /// @throws BudgetError, IoError as `reserve` does, where the free space is in pieces or less was reserved.
  Extent place(std::size_t bytes) {
    if (bytes == 0) return {};
    if (bytes > capacity_) refuse("an extent", Bytes{bytes}, Bytes{capacity_});
    const std::size_t rounded = round_up(bytes, grain_);
    const Extent extent{extents_.first_fit(rounded), rounded};
    if (extent.offset > capacity_ - rounded) {
      refuse("an extent", Bytes{rounded}, Bytes{capacity_ - std::min<std::size_t>(capacity_, extent.offset)});
    }
    store_->file.grow(extent.offset + rounded, "an extent");
    const std::scoped_lock lock{mutex_};
    extents_.insert(extent);
    outstanding_ -= std::min(outstanding_, bytes);
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    extents_.erase(extent);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::read, extent, offset, data, bytes);
  }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::write, extent, offset, const_cast<std::byte*>(data), bytes);
  }

  TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return {.used = extents_.used(),
            .peak = extents_.peak(),
            .read = Bytes{store_->read},
            .written = Bytes{store_->written}};
  }

  /// False where the file system refuses direct I/O, and transfers pass through the page cache.
  bool is_direct() const noexcept { return store_->file.is_direct(); }

 private:
  static constexpr std::size_t most_bytes = std::numeric_limits<std::int64_t>::max();

  Completion transfer(IoDirection direction, const Extent& extent, std::size_t offset, std::byte* data,
                      std::size_t bytes) {
    check(extent, offset, data, bytes);
    if (bytes == 0) return {};
    const IoRequest request{direction, store_->file.descriptor(), extent.offset + offset, data, bytes};
    return detail::NvmeTransfer<E>::start(*engine_, store_, request, block_);
  }

  void check(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) const {
    const auto what = [&] {
      return "a transfer of " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset);
    };
    if (offset > extent.bytes || bytes > extent.bytes - offset) {
      throw_configuration_error(what() + " leaves an extent of " + std::to_string(extent.bytes) + " bytes of " + name_);
    }
    const std::uint64_t address = std::bit_cast<std::uintptr_t>(data);
    if (((extent.offset | offset | bytes | address) & (alignment() - 1)) != 0) {
      throw_configuration_error(what() + " is not aligned: offsets, sizes and buffers are multiples of " +
                                std::to_string(alignment()) + " bytes on " + name_);
    }
    const std::scoped_lock lock{mutex_};
    if (extent.bytes != 0 && !extents_.contains(extent)) {
      throw_configuration_error(what() + ": the extent is not placed on " + name_);
    }
  }

  [[noreturn]] void refuse(const std::string& what, Bytes requested, Bytes available) const {
    throw_budget_error(what + " on " + name_, requested, available, "raise its capacity, or choose another tier");
  }

  E* engine_;
  std::shared_ptr<detail::NvmeStore> store_;
  std::size_t block_;
  std::size_t grain_;
  std::size_t capacity_;
  std::chrono::milliseconds drain_timeout_;
  std::string name_;
  mutable std::mutex mutex_;  // of extents_, which only the engine's caller changes
  detail::ExtentMap extents_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
};

static_assert(OffloadTier<NvmeTier<ThreadedIoEngine>>);

}  // namespace zerospan::inline v0
