/// @file
/// CudaCurrentDevice: another device for a while.
#pragma once

#include <string>

#include <cuda_runtime_api.h>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_error.hpp>

namespace zerospan::inline v0::detail {

/// Makes a device the calling thread's current one; the former one is current again when the object ends.
class CudaCurrentDevice {
 public:
  /// @throws CudaError
  explicit CudaCurrentDevice(int ordinal) {
    check_cuda(cudaGetDevice(&former_), "asking for the current device");
    check_cuda(cudaSetDevice(ordinal), "choosing CUDA device " + std::to_string(ordinal));
  }
  CudaCurrentDevice(const CudaCurrentDevice&) = delete;
  CudaCurrentDevice& operator=(const CudaCurrentDevice&) = delete;
  ~CudaCurrentDevice() { static_cast<void>(cudaSetDevice(former_)); }

 private:
  int former_ = 0;
};

}  // namespace zerospan::inline v0::detail
