/// @file
/// Ghost: a tensor of 16 bits whose elements nobody looks at.
#pragma once

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace paper {

struct Ghost {
  zerospan::bfloat16* data;
};

}  // namespace paper

template <>
struct zerospan::TensorTraits<paper::Ghost> {
  using element_type = zerospan::bfloat16;
  static paper::Ghost unbound(const Shape&) { return {nullptr}; }
  static void bind(paper::Ghost& tensor, bfloat16* data) { tensor.data = data; }
  static bfloat16* data(const paper::Ghost& tensor) { return tensor.data; }
};
