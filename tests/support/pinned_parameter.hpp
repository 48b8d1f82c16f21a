/// @file
/// Parameters of the example's model, in memory that the CPU and the GPU address.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include <zerospan/core/stream.hpp>
#include <zerospan/device/cuda_error.hpp>

#include "gpt/plain_parameter.hpp"

namespace zerospan_test {

inline void wait_for_gpu() { zerospan::check_cuda(cudaDeviceSynchronize(), "the GPU's work"); }

/// Memory that both sides address.
template <class T>
struct PinnedAllocator {
  using value_type = T;

  PinnedAllocator() = default;
  template <class Other>
  PinnedAllocator(const PinnedAllocator<Other>&) {}

  T* allocate(std::size_t count) {
    void* memory = nullptr;
    zerospan::check_cuda(cudaMallocHost(&memory, std::max(count * sizeof(T), std::size_t{1})), "pinned memory");
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { static_cast<void>(cudaFreeHost(memory)); }
};

template <class T>
bool operator==(const PinnedAllocator<T>&, const PinnedAllocator<T>&) {
  return true;
}

/// A parameter in memory that both sides address.
template <class E>
class PinnedParameter : public gpt::PlainParameter<E, PinnedAllocator<E>> {
  using Base = gpt::PlainParameter<E, PinnedAllocator<E>>;

 public:
  class GradientLease : public Base::GradientLease {
   public:
    explicit GradientLease(typename Base::GradientLease lease) : Base::GradientLease{std::move(lease)} {}
    void commit() {
      wait_for_gpu();
      Base::GradientLease::commit();
    }
  };

  using Base::Base;
  explicit PinnedParameter(Base base) : Base{std::move(base)} {}

  PinnedParameter tie(const std::string& name) const { return PinnedParameter{Base::tie(name)}; }
  GradientLease gradient(zerospan::StreamRef stream) const { return GradientLease{Base::gradient(stream)}; }
};

}  // namespace zerospan_test
