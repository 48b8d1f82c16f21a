/// @file
/// NvmeTier: states that rest in a file on a fast disk.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/detail/arena_file.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct NvmeTierOptions {
  /// Where the file is made; it must be given. The file has no name there: jobs share a directory, and nothing remains
  /// of a job that crashed. A relative path begins at the directory that the process is in when the tier is made.
  std::string directory;

  /// Bytes of one request to the I/O engine; a multiple of the disk's alignment.
  Bytes block = 1_MiB;

  /// The most bytes that the file may have.
  Bytes capacity = Bytes{std::numeric_limits<std::size_t>::max()};

  /// How long the destructor waits for transfers whose end the I/O engine has not reported.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

namespace detail {

/// What a tier shares with its transfers, so that a late completion finds it, whatever became of the tier.
struct NvmeStore : TransferGate {
  explicit NvmeStore(const std::string& directory) : file{directory} {}

  ArenaFile file;
  std::atomic<std::size_t> read = 0;
  std::atomic<std::size_t> written = 0;
};

/// Every callback that the engine holds keeps the transfer alive; if the engine drops one uncalled, the promise fails.
template <IoEngine E>
class NvmeTransfer {
 public:
  /// Gives the engine all blocks of `whole` at once. The completion is done when the last of them has ended, so that
  /// the buffer is not touched afterwards; it carries the error that came first.
  /// @param whole Not empty, aligned as the file demands.
  /// @param block Bytes of one request; a multiple of the file's alignment.
  static Completion start(E& engine, std::shared_ptr<NvmeStore> store, const IoRequest& whole, std::size_t block) {
    const auto transfer = std::make_shared<NvmeTransfer>(engine, std::move(store), whole, block);
    Completion completion = transfer->promise_.completion();
    for (Block& part : transfer->blocks_) submit(transfer, part);
    return completion;
  }

  NvmeTransfer(E& engine, std::shared_ptr<NvmeStore> store, const IoRequest& whole, std::size_t block)
      : engine_{&engine},
        store_{std::move(store)},
        promise_{operation(whole) + " of " + std::to_string(whole.bytes) + " bytes at offset " +
                 std::to_string(whole.offset) + " of " + store_->file.path()},
        blocks_((whole.bytes + block - 1) / block),
        pending_{blocks_.size()} {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].request = advanced(whole, i * block);
      blocks_[i].request.bytes = std::min(block, whole.bytes - i * block);
    }
  }

 private:
  /// What is left of one block. It has one request under way at a time.
  struct Block {
    IoRequest request;
    int stalls = 0;  ///< Requests in a row that moved nothing.
  };

  static constexpr int most_stalls = 64;

  static std::string operation(const IoRequest& request) {
    return request.direction == IoDirection::read ? "read" : "write";
  }

  static IoRequest advanced(IoRequest request, std::size_t bytes) noexcept {
    request.offset += bytes;
    request.data += bytes;
    request.bytes -= bytes;
    return request;
  }

  static void submit(const std::shared_ptr<NvmeTransfer>& self, Block& block) {
    if (self->has_failed_) return self->end_block();
    try {
      self->engine_->submit(block.request, [self, &block](std::int64_t result) { advance(self, block, result); });
    } catch (...) {
      self->fail_block(std::current_exception());
    }
  }

  /// Takes one result: ends the block, or continues it from the last aligned boundary that it reached.
  static void advance(const std::shared_ptr<NvmeTransfer>& self, Block& block, std::int64_t result) {
    const bool is_read = block.request.direction == IoDirection::read;
    const bool is_transient = result == -EINTR || result == -EAGAIN;
    if (result < 0 && !is_transient) return self->fail_block(block, static_cast<int>(-result), "");
    if (result == 0) {
      return self->fail_block(block, EIO, is_read ? " (unexpected end of file)" : " (nothing was written)");
    }
    const std::size_t moved = is_transient ? 0 : static_cast<std::size_t>(result);
    (is_read ? self->store_->read : self->store_->written) += moved;
    if (moved == block.request.bytes) return self->end_block();
    if (moved > block.request.bytes) return self->fail_block(block, EIO, " (more was moved than asked for)");
    const std::size_t progress = moved - moved % self->store_->file.alignment();
    block.stalls = progress > 0 ? 0 : block.stalls + 1;
    if (block.stalls > most_stalls) {
      return self->fail_block(block, is_transient ? static_cast<int>(-result) : EIO, " (no progress)");
    }
    block.request = advanced(block.request, progress);
    submit(self, block);
  }

  void fail_block(const Block& block, int error_number, const std::string& detail) {
    fail_block(
        std::make_exception_ptr(IoError{error_number, operation(block.request) + detail, store_->file.path(),
                                        block.request.offset, block.request.bytes, std::source_location::current()}));
  }

  void fail_block(std::exception_ptr error) {
    if (!has_failed_.exchange(true)) error_ = std::move(error);
    end_block();
  }

  void end_block() {
    if (--pending_ > 0) return;
    if (error_) return promise_.fail(error_);
    promise_.succeed();
  }

  E* engine_;
  UnderWay<NvmeStore> store_;  // released after the promise has ended
  Promise promise_;
  std::vector<Block> blocks_;
  std::atomic<std::size_t> pending_;
  std::atomic<bool> has_failed_ = false;
  std::exception_ptr error_;  // written by the first that fails, read by the last that ends
};

}  // namespace detail

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
  /// @throws ConfigurationError if no directory was given or the options contradict the disk, IoError if no file can be
  /// made in the directory.
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

  ~NvmeTier() { store_->close(drain_timeout_); }

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const noexcept { return store_->file.alignment(); }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  /// Allocates disk space for `bytes` (blocking).
  /// @throws BudgetError beyond the capacity, IoError if the disk is full, ConfigurationError in a child process.
  void reserve(Bytes bytes, std::string_view what) {
    process_.check(name_);
    const std::size_t available = capacity_ - std::min(capacity_, extents_.used().count + outstanding_);
    if (bytes.count > available) refuse(std::string{what}, bytes, Bytes{available});
    store_->file.grow(extents_.used().count + round_up(outstanding_ + bytes.count, grain_), std::string{what});
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept { outstanding_ -= std::min(outstanding_, bytes.count); }

  /// Deals out `bytes`, rounded up; the extent tells how many they are. 0 bytes take nothing.
  /// @throws as `reserve`, where the free space is in pieces or less was reserved.
  Extent place(std::size_t bytes) {
    if (bytes == 0) return {};
    process_.check(name_);
    if (bytes > capacity_) refuse("an extent", Bytes{bytes}, Bytes{capacity_});
    const std::size_t rounded = round_up(bytes, grain_);
    const Extent extent{extents_.first_fit(rounded), rounded};
    if (extent.offset > capacity_ - rounded) {
      refuse("an extent", Bytes{rounded}, Bytes{capacity_ - std::min<std::size_t>(capacity_, extent.offset)});
    }
    store_->file.grow(extent.offset + rounded, "an extent");
    const std::scoped_lock lock{mutex_};
    extents_.insert(extent, {});
    outstanding_ -= std::min(outstanding_, bytes);
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    if (const auto* taken = extents_.find(extent)) extents_.erase(*taken);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned, or in a child process.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::read, extent, offset, data, bytes);
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::write, extent, offset, const_cast<std::byte*>(data), bytes);
  }

  TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return {.used = extents_.used(), .peak = extents_.peak(), .read = Bytes{store_->read}, .written = Bytes{store_->written}};
  }

  /// False where the file system refuses direct I/O, and transfers pass through the page cache.
  bool is_direct() const noexcept { return store_->file.is_direct(); }

 private:
  struct Nothing {};  // is known of an extent beside where it is

  static constexpr std::size_t most_bytes = detail::ExtentMap<Nothing>::most_bytes;

  Completion transfer(IoDirection direction, const Extent& extent, std::size_t offset, std::byte* data,
                      std::size_t bytes) {
    process_.check(name_);
    check({direction == IoDirection::read ? "read" : "write", extent, offset, bytes, name_}, data);
    if (bytes == 0) return {};
    const IoRequest request{direction, store_->file.descriptor(), extent.offset + offset, data, bytes};
    return detail::NvmeTransfer<E>::start(*engine_, store_, request, block_);
  }

  void check(const detail::TransferName& transfer, const std::byte* data) const {
    transfer.check_inside();
    const std::uint64_t address = std::bit_cast<std::uintptr_t>(data);
    transfer.check_aligned(transfer.extent.offset | transfer.offset | transfer.bytes | address, alignment());
    const std::scoped_lock lock{mutex_};
    if (transfer.extent.bytes != 0 && !extents_.holder(transfer.extent)) transfer.refuse_unplaced();
  }

  [[noreturn]] void refuse(const std::string& what, Bytes requested, Bytes available) const {
    throw_budget_error(what + " on " + name_, requested, available, "raise its capacity, or choose another tier");
  }

  E* engine_;
  detail::OwnProcess process_;
  std::shared_ptr<detail::NvmeStore> store_;
  std::size_t block_;
  std::size_t grain_;
  std::size_t capacity_;
  std::chrono::milliseconds drain_timeout_;
  std::string name_;
  mutable std::mutex mutex_;  // of extents_, which only the engine's caller changes
  detail::ExtentMap<Nothing> extents_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
};

static_assert(OffloadTier<NvmeTier<ThreadedIoEngine>>);

}  // namespace zerospan::inline v0
