/// @file
/// One transfer of an NvmeTier: split into blocks, continued where it fell short, ended once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/tier/detail/arena_file.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>

namespace zerospan::inline v0::detail {

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

}  // namespace zerospan::inline v0::detail
