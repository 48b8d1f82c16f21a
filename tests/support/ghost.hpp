/// @file
/// Ghost: a tensor whose elements nobody looks at, for models in virtual time.
#pragma once

#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace zerospan_test {

template <zerospan::Element E>
struct Ghost {
  E* data;
};

}  // namespace zerospan_test

template <class E>
struct zerospan::TensorTraits<zerospan_test::Ghost<E>> {
  using element_type = E;
  static zerospan_test::Ghost<E> unbound(const Shape&) { return {nullptr}; }
  static void bind(zerospan_test::Ghost<E>& tensor, E* data) { tensor.data = data; }
  static E* data(const zerospan_test::Ghost<E>& tensor) { return tensor.data; }
};
