/// @file
/// Causal multi-head self-attention over given queries, keys and values.
#pragma once

#include <algorithm>
#include <cstddef>

#include "blas.hpp"
#include "dimensions.hpp"
#include "heads.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @param qkv     [sequences length x 3 width]: queries, keys and values side by side, each head by head.
/// @param weights [sequences heads length x length]: the attention weights, for the backward pass.
/// @param output  [sequences length x width]
template <class S>
void attention_forward(Input<S> qkv, AttentionShape shape, Tensor<S> weights, Tensor<S> output) {
  for (std::size_t sequence = 0; sequence < shape.sequences; ++sequence) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      const auto in = detail::head_of(qkv, shape, sequence, head);
      const Tensor<S> scores = detail::weights_of(weights, shape, sequence, head);
      multiply(in.query, transposed(in.key), scores, detail::scale_of(in.query));
      for (std::size_t i = 0; i < shape.length; ++i) {
        S* row = scores.row(i);
        softmax(row, i + 1);
        std::fill(row + i + 1, row + shape.length, S{0});
      }
      multiply(scores, in.value, detail::output_of(output, shape, sequence, head));
    }
  }
}

/// @param doutput [sequences length x width]
/// @param scratch [length x length]
/// @param dqkv    [sequences length x 3 width], overwritten.
template <class S>
void attention_backward(Input<S> qkv, Input<S> weights, Input<S> doutput, AttentionShape shape, Tensor<S> scratch,
                        Tensor<S> dqkv) {
  for (std::size_t sequence = 0; sequence < shape.sequences; ++sequence) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      const auto in = detail::head_of(qkv, shape, sequence, head);
      const auto gradient = detail::head_of(dqkv, shape, sequence, head);
      const auto dout = detail::output_of(doutput, shape, sequence, head);
      const auto probabilities = detail::weights_of(weights, shape, sequence, head);
      multiply(dout, transposed(in.value), scratch);
      multiply(transposed(probabilities), dout, gradient.value);
      for (std::size_t i = 0; i < shape.length; ++i) {
        const S* p = probabilities.row(i);
        S* row = scratch.row(i);
        const S mean = sum<S>(i + 1, [=](std::size_t j) { return p[j] * row[j]; });
        for (std::size_t j = 0; j <= i; ++j) row[j] = p[j] * (row[j] - mean);
        std::fill(row + i + 1, row + shape.length, S{0});
      }
      const S scale = detail::scale_of(in.query);
      multiply(scratch, in.key, gradient.query, scale);
      multiply(transposed(scratch), in.query, gradient.key, scale);
    }
  }
}

}  // namespace gpt
