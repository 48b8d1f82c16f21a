/// @file
/// The host tensor of benchmarks: a pointer.
#pragma once

#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace bench {

struct Vector {
  float* data = nullptr;
};

}  // namespace bench

template <>
struct zerospan::TensorTraits<bench::Vector> {
  using element_type = float;
  static bench::Vector unbound(const Shape&) { return {}; }
  static void bind(bench::Vector& vector, float* data) { vector.data = data; }
  static float* data(const bench::Vector& vector) { return vector.data; }
};
