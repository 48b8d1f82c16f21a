/// @file
/// What the example owns on a GPU: memory, a stream, events.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <zerospan/device/cuda_error.hpp>

namespace gpt::cuda {

/// @throws zerospan::CudaError if the GPU has less memory.
inline std::shared_ptr<std::byte> allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  zerospan::check_cuda(cudaMalloc(&memory, bytes),
                       "the allocation of " + std::to_string(bytes) + " bytes for activations");
  return {static_cast<std::byte*>(memory), [](std::byte* begin) { static_cast<void>(cudaFree(begin)); }};
}

/// Memory of the host that copies to and from the GPU need not wait for.
inline std::shared_ptr<std::byte> allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  zerospan::check_cuda(cudaMallocHost(&memory, bytes), "the allocation of " + std::to_string(bytes) + " pinned bytes");
  return {static_cast<std::byte*>(memory), [](std::byte* begin) { static_cast<void>(cudaFreeHost(begin)); }};
}

struct DestroyStream {
  void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
};
using StreamOwner = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;

inline StreamOwner make_stream() {
  cudaStream_t stream = nullptr;
  zerospan::check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream for the model");
  return StreamOwner{stream};
}

struct DestroyEvent {
  void operator()(cudaEvent_t event) const { static_cast<void>(cudaEventDestroy(event)); }
};
using EventOwner = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

inline EventOwner make_event() {
  cudaEvent_t event = nullptr;
  zerospan::check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  return EventOwner{event};
}

}  // namespace gpt::cuda
