/// @file
/// One range of memory, dealt out as tensors.
#pragma once

#include <cstddef>

#include "tensor.hpp"

namespace gpt {

/// Deals out tensors of any types, one after the other, each aligned. Without memory it only counts.
class Slab {
 public:
  /// Of vectors, cache lines and what the matrix products of a GPU like best.
  static constexpr std::size_t alignment = 256;

  Slab() = default;
  explicit Slab(std::byte* memory) : memory_{memory} {}

  template <class T>
  Tensor<T> deal(std::size_t rows, std::size_t columns) {
    const Tensor<T> tensor{memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr, rows, columns};
    used_ += (tensor.size() * sizeof(T) + alignment - 1) / alignment * alignment;
    return tensor;
  }

  /// Bytes that were dealt out.
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace gpt
