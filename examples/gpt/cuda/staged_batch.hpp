/// @file
/// Batches on their way to the GPU.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include <cuda_runtime_api.h>

#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_runtime.hpp>

#include "../batch.hpp"
#include "memory.hpp"

namespace gpt::cuda {

/// Device memory for one batch at a time, and pinned memory for those on their way there.
class StagedBatch {
 public:
  /// @param tokens The most of a batch.
  explicit StagedBatch(std::size_t tokens)
      : tokens_{tokens}, device_{allocate_device(2 * tokens)}, slots_{Slot{tokens}, Slot{tokens}} {}

  /// Enqueues the copy, and returns the batch in device memory: until the next call's copy.
  /// @note Waits for the copy of the call before the last, which the host may be that far ahead of.
  Batch stage(cudaStream_t stream, const Batch& batch) {
    const std::size_t n = batch.tokens.size();
    if (n > tokens_) throw std::length_error{"a batch has more tokens than were announced"};
    Slot& slot = slots_[next_++ % slots_.size()];
    zerospan::check_cuda(cudaEventSynchronize(slot.copied.native_handle()), "the copy of a batch");
    auto* const pinned = reinterpret_cast<std::uint8_t*>(slot.memory.get());
    std::ranges::copy(batch.tokens, pinned);
    std::ranges::copy(batch.targets, pinned + n);
    auto* const there = reinterpret_cast<std::uint8_t*>(device_.get());
    zerospan::check_cuda(cudaMemcpyAsync(there, pinned, 2 * n, cudaMemcpyHostToDevice, stream), "the copy of a batch");
    zerospan::check_cuda(cudaEventRecord(slot.copied.native_handle(), stream), "the copy of a batch");
    return {{there, n}, {there + n, n}, batch.length};
  }

 private:
  struct Slot {
    explicit Slot(std::size_t tokens) : memory{allocate_pinned(2 * tokens)} {}

    std::shared_ptr<std::byte> memory;
    zerospan::CudaEventOwner copied = zerospan::CudaEventOwner::make();
  };

  std::size_t tokens_;
  std::shared_ptr<std::byte> device_;
  std::array<Slot, 2> slots_;
  std::size_t next_ = 0;
};

}  // namespace gpt::cuda
