/// @file
/// All that zerospan has to be told about the example's tensors.
#pragma once

#include <cstddef>

#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

#include "tensor.hpp"

template <>
struct zerospan::ElementTraits<gpt::BFloat16> {
  static constexpr ElementType type = ElementType::bfloat16;
};

template <>
struct zerospan::ElementTraits<gpt::Float16> {
  static constexpr ElementType type = ElementType::float16;
};

template <zerospan::Element E>
struct zerospan::TensorTraits<gpt::Tensor<E>> {
  using element_type = E;

  static gpt::Tensor<E> unbound(const Shape& shape) {
    const std::size_t columns = shape[shape.rank() - 1];
    return {nullptr, shape.elements() / columns, columns};
  }
  static void bind(gpt::Tensor<E>& tensor, E* data) { tensor.data = data; }
  static E* data(const gpt::Tensor<E>& tensor) { return tensor.data; }
};

static_assert(zerospan::HostTensor<gpt::Tensor<float>> && zerospan::HostTensor<gpt::Tensor<gpt::BFloat16>> &&
              zerospan::HostTensor<gpt::Tensor<gpt::Float16>>);
