/// @file
/// Memory and a stream of a GPU, where a run of every collective takes place.
#pragma once

#include <cstddef>
#include <memory>

#include <cuda_runtime_api.h>

#include <zerospan/core/stream.hpp>
#include <zerospan/device/cuda_error.hpp>

#include "collective_exercise.hpp"

namespace zerospan_test {

/// Device memory, used on a stream.
class CudaPlace {
 public:
  class Memory {
   public:
    explicit Memory(const exercise::Buffer& bytes) : bytes_{bytes.size()} {
      void* data = nullptr;
      zerospan::check_cuda(cudaMalloc(&data, bytes_ + 1), "cudaMalloc");
      data_.reset(static_cast<std::byte*>(data));
      zerospan::check_cuda(cudaMemcpy(data, bytes.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    std::byte* data() const { return data_.get(); }
    std::size_t size() const { return bytes_; }

   private:
    struct Free {
      void operator()(std::byte* data) const { static_cast<void>(cudaFree(data)); }
    };
    std::unique_ptr<std::byte, Free> data_;
    std::size_t bytes_;
  };

  explicit CudaPlace(int ordinal) {
    zerospan::check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
    zerospan::check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  CudaPlace(const CudaPlace&) = delete;
  CudaPlace& operator=(const CudaPlace&) = delete;
  ~CudaPlace() { static_cast<void>(cudaStreamDestroy(stream_)); }

  zerospan::StreamRef stream() const { return zerospan::StreamRef{static_cast<void*>(stream_)}; }
  Memory memory(const exercise::Buffer& bytes) const { return Memory{bytes}; }
  exercise::Buffer read(const Memory& memory) const {
    zerospan::check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    exercise::Buffer bytes(memory.size());
    zerospan::check_cuda(cudaMemcpy(bytes.data(), memory.data(), bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return bytes;
  }
  void synchronize() const { zerospan::check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace zerospan_test
