/// @file
/// Memory that the example takes for itself, beside zerospan's budgets.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include <cuda_runtime_api.h>

#include <zerospan/core/error.hpp>
#include <zerospan/device/cuda_error.hpp>

namespace gpt::cuda {

/// Of the current device.
/// @throws zerospan::BudgetError if it has less.
inline std::shared_ptr<std::byte> allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t code = cudaMalloc(&memory, bytes);
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0, total = 0;
    zerospan::check_cuda(cudaMemGetInfo(&free, &total), "asking for the free device memory");
    zerospan::throw_budget_error("the model's activations", zerospan::Bytes{bytes}, zerospan::Bytes{free},
                                 "lower the batch, checkpoint activations, or lower the device budget");
  }
  zerospan::check_cuda(code, "allocating " + std::to_string(bytes) + " bytes of device memory");
  return {static_cast<std::byte*>(memory), [](std::byte* begin) { static_cast<void>(cudaFree(begin)); }};
}

/// Memory of the host that copies to and from the GPU need not wait for.
inline std::shared_ptr<std::byte> allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  zerospan::check_cuda(cudaMallocHost(&memory, bytes), "allocating " + std::to_string(bytes) + " pinned bytes");
  return {static_cast<std::byte*>(memory), [](std::byte* begin) { static_cast<void>(cudaFreeHost(begin)); }};
}

}  // namespace gpt::cuda
