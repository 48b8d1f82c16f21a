/// @file
/// Errors of the CUDA runtime.
#pragma once

#include <source_location>
#include <string>
#include <string_view>

#include <cuda_runtime_api.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// A call of the CUDA runtime that failed, or earlier work on the device that this call was the first to report.
class CudaError : public Error {
 public:
  /// @param operation What was to be done ("the copy of 4096 bytes").
  CudaError(cudaError_t code, std::string_view operation, std::source_location where)
      : Error{std::string{operation} + ": " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code), where},
        code_{code} {}

  /// The runtime's number of the error, a `cudaError_t`.
  int code() const noexcept { return static_cast<int>(code_); }

 private:
  cudaError_t code_;
};

/// @throws CudaError unless `code` is `cudaSuccess`; the runtime then forgets the error, unless the context is lost.
inline void check_cuda(cudaError_t code, std::string_view operation,
                       std::source_location where = std::source_location::current()) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw CudaError{code, operation, where};
}

}  // namespace zerospan::inline v0
