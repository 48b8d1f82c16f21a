/// @file
/// y = x W^T + b.
#pragma once

#include <algorithm>
#include <cstddef>

#include "blas.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @param x      [n x in]
/// @param weight [out x in]
/// @param bias   [out]
/// @param y      [n x out]
template <class S>
void linear_forward(Input<S> x, Input<S> weight, Input<S> bias, Tensor<S> y) {
  for (std::size_t r = 0; r < y.rows; ++r) std::copy_n(bias.data, bias.columns, y.row(r));
  multiply(x, transposed(weight), y, 1, 1);
}

/// @param dweight [out x in], overwritten.
template <class S>
void linear_backward_weight(Input<S> x, Input<S> dy, Tensor<S> dweight) {
  multiply(transposed(dy), x, dweight);
}

/// @param dbias [out], overwritten.
template <class S>
void linear_backward_bias(Input<S> dy, Tensor<S> dbias) {
  sum_of_rows(dy, dbias);
}

/// @param dx [n x in], overwritten.
template <class S>
void linear_backward_input(Input<S> dy, Input<S> weight, Tensor<S> dx) {
  multiply(dy, weight, dx);
}

}  // namespace gpt
