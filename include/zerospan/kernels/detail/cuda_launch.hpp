/// @file
/// Launches of kernels. For nvcc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <cuda_runtime.h>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_stream.hpp>

namespace zerospan::inline v0::detail {

/// How a kernel is spread over the current device.
struct LaunchShape {
  std::size_t work;       ///< What there is to do, in units of which a block does one or more.
  std::size_t threads;    ///< Of a block.
  std::size_t residency;  ///< Blocks that a multiprocessor holds at once. No more are launched than all of them hold.
};

/// The multiprocessors of the current device. @throws CudaError
inline std::size_t multiprocessors() {
  int device = 0;
  int count = 0;
  check_cuda(cudaGetDevice(&device), "asking for the current device");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "counting multiprocessors");
  return static_cast<std::size_t>(count);
}

/// Enqueues `kernel(arguments...)`; nothing if there is no work.
/// @param name What it does, for the error. @throws CudaError if it cannot be launched.
template <class... Parameters, class... Arguments>
void launch(const CudaStream& stream, std::string_view name, const LaunchShape& shape, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (shape.work == 0) return;
  cudaLaunchConfig_t configuration{};
  configuration.gridDim.x = static_cast<unsigned>(std::min(shape.work, shape.residency * multiprocessors()));
  configuration.blockDim.x = static_cast<unsigned>(shape.threads);
  configuration.stream = stream.handle;
  const cudaError_t code = cudaLaunchKernelEx(&configuration, kernel, arguments...);
  if (code != cudaSuccess) check_cuda(code, "launching " + std::string{name});
}

}  // namespace zerospan::inline v0::detail
