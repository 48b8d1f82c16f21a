/// @file
/// CudaRuntime: the calls of the CUDA runtime that a CudaDevice is made of.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/device/detail/cuda_current_device.hpp>
#include <zerospan/device/detail/cuda_nvtx_range.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0 {

/// Owns a stream.
class CudaStreamOwner {
 public:
  /// Takes the stream over.
  static CudaStreamOwner from_native_handle(cudaStream_t stream) noexcept { return CudaStreamOwner{stream}; }

  /// A stream of the current device, which waits for no other.
  /// @param priority As the runtime counts: the smaller, the sooner. @throws CudaError
  static CudaStreamOwner make(int priority) {
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority), "making a stream");
    return CudaStreamOwner{stream};
  }

  CudaStreamOwner(CudaStreamOwner&& other) noexcept : stream_{other.release()} {}
  CudaStreamOwner& operator=(CudaStreamOwner&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CudaStreamOwner() {
    if (stream_) static_cast<void>(cudaStreamDestroy(stream_));
  }

  CudaStream ref() const noexcept { return CudaStream{stream_}; }

  /// Gives the stream up.
  cudaStream_t release() noexcept { return std::exchange(stream_, nullptr); }

 private:
  explicit CudaStreamOwner(cudaStream_t stream) noexcept : stream_{stream} {}

  cudaStream_t stream_;
};

/// Owns an event.
class CudaEventOwner {
 public:
  /// Takes the event over.
  static CudaEventOwner from_native_handle(cudaEvent_t event) noexcept { return CudaEventOwner{event}; }

  /// An event of the current device, with a time. @throws CudaError
  static CudaEventOwner make() {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDefault), "making an event");
    return CudaEventOwner{event};
  }

  CudaEventOwner(CudaEventOwner&& other) noexcept : event_{other.release()} {}
  CudaEventOwner& operator=(CudaEventOwner&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEventOwner() {
    if (event_) static_cast<void>(cudaEventDestroy(event_));
  }

  cudaEvent_t native_handle() const noexcept { return event_; }

  /// Gives the event up.
  cudaEvent_t release() noexcept { return std::exchange(event_, nullptr); }

 private:
  explicit CudaEventOwner(cudaEvent_t event) noexcept : event_{event} {}

  cudaEvent_t event_;
};

/// One GPU. Threads of the host keep their current device.
class CudaRuntime {
 public:
  using stream_type = CudaStream;
  using stream_owner = CudaStreamOwner;
  using event_type = CudaEventOwner;

  /// @param ordinal As CUDA counts devices.
  /// @throws CudaError without a driver; ConfigurationError if there is no such device.
  explicit CudaRuntime(int ordinal = 0) : ordinal_{ordinal} {
    int count = 0;
    check_cuda(cudaGetDeviceCount(&count), "counting CUDA devices");
    if (ordinal < 0 || ordinal >= count) {
      throw_configuration_error("there is no CUDA device " + std::to_string(ordinal) + " among " +
                                std::to_string(count));
    }
    const detail::CudaCurrentDevice current{ordinal};
    check_cuda(cudaDeviceGetStreamPriorityRange(&least_, &greatest_), "asking for the priorities of streams");
  }

  int ordinal() const noexcept { return ordinal_; }

  /// @note It stays current: for threads of the library's own.
  void attach() const { check_cuda(cudaSetDevice(ordinal_), "choosing CUDA device " + std::to_string(ordinal_)); }

  /// Plain device memory, in one piece.
  std::shared_ptr<std::byte> allocate_device(Bytes bytes) const {
    const detail::CudaCurrentDevice current{ordinal_};
    void* memory = nullptr;
    const cudaError_t code = cudaMalloc(&memory, bytes.count + alignment);
    if (code == cudaErrorMemoryAllocation) refuse(bytes);
    check_cuda(code, "allocating " + std::to_string(bytes.count) + " bytes of device memory");
    const std::shared_ptr<void> owner{memory, [](void* begin) { static_cast<void>(cudaFree(begin)); }};
    std::size_t space = bytes.count + alignment;
    std::align(alignment, bytes.count, memory, space);
    return {owner, static_cast<std::byte*>(memory)};
  }

  /// Ordinary memory on huge pages, pinned, exactly as much as is wanted.
  std::shared_ptr<std::byte> allocate_host(Bytes bytes) const {
    const detail::CudaCurrentDevice current{ordinal_};
    const std::shared_ptr<std::byte> memory = detail::map_huge_pages(bytes);
    if (bytes.count == 0) return memory;
    check_cuda(cudaHostRegister(memory.get(), bytes.count, cudaHostRegisterPortable | cudaHostRegisterMapped),
               "pinning " + std::to_string(bytes.count) + " bytes of host memory");
    return {memory.get(), [memory](std::byte* begin) { static_cast<void>(cudaHostUnregister(begin)); }};
  }

  CudaStreamOwner make_stream(StreamPriority priority) const {
    const detail::CudaCurrentDevice current{ordinal_};
    const int middle = (least_ + greatest_) / 2;
    return CudaStreamOwner::make(priority == StreamPriority::high  ? greatest_
                                 : priority == StreamPriority::low ? least_
                                                                   : middle);
  }
  CudaEventOwner make_event() const {
    const detail::CudaCurrentDevice current{ordinal_};
    return CudaEventOwner::make();
  }

  void record(CudaEventOwner& event, StreamRef stream) const {
    check_cuda(cudaEventRecord(event.native_handle(), CudaStream{stream}.handle), "recording an event");
  }
  void wait(StreamRef stream, const CudaEventOwner& event) const {
    check_cuda(cudaStreamWaitEvent(CudaStream{stream}.handle, event.native_handle(), 0), "waiting for an event");
  }
  bool is_done(const CudaEventOwner& event) const {
    const cudaError_t code = cudaEventQuery(event.native_handle());
    if (code == cudaErrorNotReady) return false;
    check_cuda(code, "work on CUDA device " + std::to_string(ordinal_));
    return true;
  }
  double seconds(const CudaEventOwner& begin, const CudaEventOwner& end) const {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin.native_handle(), end.native_handle()), "timing an event");
    return static_cast<double>(milliseconds) * 1e-3;
  }
  detail::NvtxRange range(const std::string& name) const { return detail::NvtxRange{name}; }
  void synchronize(StreamRef stream) const {
    check_cuda(cudaStreamSynchronize(CudaStream{stream}.handle), "waiting for a stream");
  }

 private:
  static constexpr std::size_t alignment = 4096;

  [[noreturn]] void refuse(Bytes bytes) const {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0;
    std::size_t total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "asking for the free device memory");
    throw_budget_error("the budget of CUDA device " + std::to_string(ordinal_), bytes, Bytes{free},
                       "lower the device budget, or free device memory first");
  }

  int ordinal_;
  int least_ = 0;
  int greatest_ = 0;
};

static_assert(StreamRuntime<CudaRuntime>);

}  // namespace zerospan::inline v0
