/// @file
/// CudaStream: a stream of a CUDA device, and the elementary operations on it.
#pragma once

#include <cstddef>
#include <string>

#include <cuda_runtime_api.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/cuda_error.hpp>

namespace zerospan::inline v0 {

/// A non-owning reference to a stream of CUDA. What is enqueued on it runs on the stream's device, which has to be the
/// calling thread's current one.
struct CudaStream {
  explicit CudaStream(cudaStream_t stream) noexcept : handle{stream} {}

  /// @throws ConfigurationError if `stream` is the calling thread.
  explicit CudaStream(StreamRef stream) : handle{static_cast<cudaStream_t>(stream.native_handle())} {
    if (stream.is_calling_thread()) throw_configuration_error("a CUDA stream is needed, not the calling thread");
  }

  explicit operator StreamRef() const noexcept { return StreamRef{static_cast<void*>(handle)}; }

  cudaStream_t handle;
};

/// Copies between any two of device memory, pinned memory and pageable memory.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void copy_bytes(const CudaStream& stream, std::byte* target, const std::byte* source, std::size_t bytes) {
  if (target == source || bytes == 0) return;
  const cudaError_t code = cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream.handle);
  if (code != cudaSuccess) check_cuda(code, "the copy of " + std::to_string(bytes) + " bytes");
}

/// Fills device memory or pinned memory. @note As `copy_bytes`.
inline void fill_zero(const CudaStream& stream, std::byte* target, std::size_t bytes) {
  if (bytes == 0) return;
  const cudaError_t code = cudaMemsetAsync(target, 0, bytes, stream.handle);
  if (code != cudaSuccess) check_cuda(code, "the filling of " + std::to_string(bytes) + " bytes with zeros");
}

}  // namespace zerospan::inline v0
