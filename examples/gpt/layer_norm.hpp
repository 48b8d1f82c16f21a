/// @file
/// Layer normalization: y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "row_statistics.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @param x,y         [n x width]
/// @param weight,bias [width]
template <class S>
void layer_norm_forward(Input<S> x, Input<S> weight, Input<S> bias, Tensor<S> y, RowStatistics<S> statistics) {
  const std::size_t width = x.columns;
  for (std::size_t r = 0; r < x.rows; ++r) {
    const S* in = x.row(r);
    S* out = y.row(r);
    const S mean = sum<S>(width, [in](std::size_t c) { return in[c]; }) / static_cast<S>(width);
    const S squares = sum<S>(width, [in, mean](std::size_t c) { return (in[c] - mean) * (in[c] - mean); });
    const S inverse = S{1} / std::sqrt(squares / static_cast<S>(width) + static_cast<S>(layer_norm_epsilon));
    for (std::size_t c = 0; c < width; ++c) out[c] = (in[c] - mean) * inverse * weight.data[c] + bias.data[c];
    statistics.mean.data[r] = mean;
    statistics.inverse_deviation.data[r] = inverse;
  }
}

/// @param dweight [width], overwritten.
template <class S>
void layer_norm_backward_weight(Input<S> x, Input<S> dy, RowStatistics<S> statistics, Tensor<S> dweight) {
  std::fill_n(dweight.data, dweight.columns, S{0});
  for (std::size_t r = 0; r < x.rows; ++r) {
    const S* in = x.row(r);
    const S* dout = dy.row(r);
    const S mean = statistics.mean.data[r];
    const S inverse = statistics.inverse_deviation.data[r];
    for (std::size_t c = 0; c < x.columns; ++c) dweight.data[c] += dout[c] * (in[c] - mean) * inverse;
  }
}

/// @param dbias [width], overwritten.
template <class S>
void layer_norm_backward_bias(Input<S> dy, Tensor<S> dbias) {
  sum_of_rows(dy, dbias);
}

/// @param dx [n x width]; the gradient is added to it: the residual path's is there already.
template <class S>
void layer_norm_backward_input(Input<S> x, Input<S> weight, Input<S> dy, RowStatistics<S> statistics, Tensor<S> dx) {
  const std::size_t width = x.columns;
  const S* scale = weight.data;
  for (std::size_t r = 0; r < x.rows; ++r) {
    const S* in = x.row(r);
    const S* dout = dy.row(r);
    S* din = dx.row(r);
    const S mean = statistics.mean.data[r];
    const S inverse = statistics.inverse_deviation.data[r];
    const auto normalized = [=](std::size_t c) { return (in[c] - mean) * inverse; };
    const auto dnormalized = [=](std::size_t c) { return dout[c] * scale[c]; };
    const S first = sum<S>(width, dnormalized) / static_cast<S>(width);
    const S second =
        sum<S>(width, [=](std::size_t c) { return dnormalized(c) * normalized(c); }) / static_cast<S>(width);
    for (std::size_t c = 0; c < width; ++c) din[c] += (dnormalized(c) - first - normalized(c) * second) * inverse;
  }
}

}  // namespace gpt
