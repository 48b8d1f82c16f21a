/// @file
/// What a matrix product is given.
#pragma once

#include <type_traits>

#include "tensor.hpp"

namespace gpt {

enum class Order { straight, transposed };

/// A factor of a product: a matrix, or its transpose.
template <class S>
struct Factor {
  Factor(Tensor<S> factor) : matrix(factor) {}
  Factor(Tensor<const S> factor, Order its_order = Order::straight) : matrix(factor), order{its_order} {}

  Tensor<const S> matrix;
  Order order = Order::straight;
};

template <class S>
Factor<std::remove_const_t<S>> transposed(Tensor<S> matrix) {
  return {matrix, Order::transposed};
}

/// What becomes of the old value of a result.
enum class Assignment { replace, add };

}  // namespace gpt
