/// @file
/// CufileEngine: GPUDirect Storage, between files and the memory of a GPU. Link with cuFile and the CUDA runtime.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include <cuda_runtime_api.h>
#include <cufile.h>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/io/cufile_driver.hpp>
#include <zerospan/io/cufile_error.hpp>
#include <zerospan/io/detail/cufile_handles.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>

namespace zerospan::inline v0 {

struct CufileOptions {
  int ordinal = 0;          ///< The GPU whose memory is transferred.
  std::size_t threads = 8;  ///< Transfers under way at once.
};

/// The transfers of a CufileEngine. Errors of cuFile are told as the errno that comes closest.
class CufileTransfers {
 public:
  static constexpr std::string_view name = "cuFile";

  /// @throws CudaError if there is no such GPU, CufileError if there is no driver.
  explicit CufileTransfers(int ordinal) : ordinal_{ordinal} {
    check_cuda(cudaSetDevice(ordinal), "choosing a GPU for cuFile");
    shared_ = std::make_shared<Shared>();
  }

  /// An interrupted call (EINTR) is repeated.
  std::int64_t operator()(const IoRequest& request) const noexcept {
    if (cudaSetDevice(ordinal_) != cudaSuccess) return -ENODEV;
    const auto [handle, error_number] = shared_->handles.find(request.file_descriptor);
    if (!handle) return -error_number;
    while (true) {
      const std::int64_t result = transfer(handle->get(), request);
      if (result != -EINTR) return result;
    }
  }

  bool is_direct() const { return shared_->driver.is_direct(); }

 private:
  struct Shared {
    CufileDriver driver;
    detail::CufileHandles handles;
  };

  static std::int64_t transfer(CUfileHandle_t handle, const IoRequest& request) noexcept {
    const auto offset = static_cast<off_t>(request.offset);
    errno = 0;
    const ssize_t moved = request.direction == IoDirection::read
                              ? ::cuFileRead(handle, request.data, request.bytes, offset, 0)
                              : ::cuFileWrite(handle, request.data, request.bytes, offset, 0);
    return detail::cufile_result(moved, errno);
  }

  int ordinal_;
  std::shared_ptr<Shared> shared_;
};

/// An engine whose threads block in one transfer each, in device memory or in host memory. Files are registered with
/// cuFile when they are met first; they should be opened for direct I/O.
///
/// Where the system cannot transfer directly, cuFile copies through host memory, if its configuration allows that:
/// `is_direct()` tells.
class CufileEngine {
 public:
  /// @throws CudaError if there is no such GPU, CufileError if cuFile cannot begin, ConfigurationError without threads.
  explicit CufileEngine(const CufileOptions& options = {})
      : transfers_{options.ordinal}, engine_{{.threads = options.threads}, transfers_} {}

  /// True if there is a GPU, and cuFile's driver opens.
  static bool available() noexcept {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return false;
    try {
      const CufileDriver driver;
      return true;
    } catch (...) {
      return false;
    }
  }

  void submit(const IoRequest& request, IoCallback callback) { engine_.submit(request, std::move(callback)); }
  std::size_t queue_depth() const noexcept { return engine_.queue_depth(); }
  std::string_view name() const noexcept { return engine_.name(); }

  /// Whether nothing passes through host memory. @throws CufileError
  bool is_direct() const { return transfers_.is_direct(); }

 private:
  CufileTransfers transfers_;
  BasicThreadedIoEngine<CufileTransfers> engine_;
};

static_assert(IoEngine<CufileEngine>);

}  // namespace zerospan::inline v0
