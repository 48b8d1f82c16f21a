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
struct ManagedAllocator {
  using value_type = T;

  ManagedAllocator() = default;
  template <class Other>
  ManagedAllocator(const ManagedAllocator<Other>&) {}

  T* allocate(std::size_t count) {
    void* memory = nullptr;
    zerospan::check_cuda(cudaMallocManaged(&memory, std::max(count * sizeof(T), std::size_t{1})), "managed memory");
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { static_cast<void>(cudaFree(memory)); }
};

template <class T>
bool operator==(const ManagedAllocator<T>&, const ManagedAllocator<T>&) {
  return true;
}

/// A parameter in memory that both sides address.
template <class E>
class ManagedParameter : public gpt::PlainParameter<E, ManagedAllocator<E>> {
  using Base = gpt::PlainParameter<E, ManagedAllocator<E>>;

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
  explicit ManagedParameter(Base base) : Base{std::move(base)} {}

  ManagedParameter tie(const std::string& name) const { return ManagedParameter{Base::tie(name)}; }
  GradientLease gradient(zerospan::StreamRef stream) const { return GradientLease{Base::gradient(stream)}; }
};

}  // namespace zerospan_test
