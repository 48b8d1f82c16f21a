/// @file
/// Errors of cuFile.
#pragma once

#include <cerrno>
#include <cstdint>
#include <source_location>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <cufile.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// A call of cuFile that failed.
class CufileError : public Error {
 public:
  /// @param operation What was to be done ("the opening of GPUDirect Storage").
  CufileError(CUfileError_t status, std::string_view operation, std::source_location where)
      : Error{std::string{operation} + ": " + ::cufileop_status_error(status.err) +
                  (status.err == CU_FILE_CUDA_DRIVER_ERROR ? ", CUDA driver's error " + std::to_string(status.cu_err)
                                                           : ""),
              where},
        code_{status.err} {}

  /// cuFile's number of the error, a `CUfileOpError`.
  int code() const noexcept { return static_cast<int>(code_); }

 private:
  CUfileOpError code_;
};

/// @throws CufileError unless `status` is a success.
inline void check_cufile(CUfileError_t status, std::string_view operation,
                         std::source_location where = std::source_location::current()) {
  if (status.err != CU_FILE_SUCCESS) throw CufileError{status, operation, where};
}

namespace detail {

/// The errno that comes nearest to an error of cuFile.
constexpr int errno_of(CUfileOpError error) noexcept {
  switch (error) {
    case CU_FILE_INVALID_VALUE:
    case CU_FILE_INVALID_FILE_OPEN_FLAG:
    case CU_FILE_INVALID_FILE_TYPE:
    case CU_FILE_DIO_NOT_SET:
      return EINVAL;
    case CU_FILE_CUDA_POINTER_INVALID:
    case CU_FILE_CUDA_MEMORY_TYPE_INVALID:
    case CU_FILE_CUDA_POINTER_RANGE_ERROR:
    case CU_FILE_CUDA_CONTEXT_MISMATCH:
      return EFAULT;
    case CU_FILE_IO_NOT_SUPPORTED:
    case CU_FILE_IO_DISABLED:
    case CU_FILE_PLATFORM_NOT_SUPPORTED:
    case CU_FILE_DEVICE_NOT_SUPPORTED:
      return EOPNOTSUPP;
    case CU_FILE_DRIVER_NOT_INITIALIZED:
    case CU_FILE_DRIVER_CLOSING:
    case CU_FILE_DEVICE_NOT_FOUND:
      return ENODEV;
    case CU_FILE_PERMISSION_DENIED:
      return EACCES;
    case CU_FILE_GPU_MEMORY_PINNING_FAILED:
    case CU_FILE_NOMEM_ERROR:
      return ENOMEM;
    default:
      return EIO;
  }
}

/// What cuFileRead and cuFileWrite return, as an IoCallback is told it: bytes moved, or a negative errno.
/// @param error_number `errno` after the call.
constexpr std::int64_t cufile_result(ssize_t moved, int error_number) noexcept {
  if (moved >= 0) return moved;
  if (moved == -1) return error_number != 0 ? -error_number : -EIO;
  return -errno_of(static_cast<CUfileOpError>(-moved));
}

}  // namespace detail

}  // namespace zerospan::inline v0
