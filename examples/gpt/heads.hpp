/// @file
/// Where the heads of attention lie in matrices that hold those of all sequences.
#pragma once

#include <cmath>
#include <cstddef>

#include "dimensions.hpp"
#include "tensor.hpp"

namespace gpt {

namespace detail {

/// Queries, keys and values of one head of one sequence, [length x width / heads] each.
template <class S>
struct Head {
  Tensor<S> query;
  Tensor<S> key;
  Tensor<S> value;
};

template <class S>
Tensor<S> rows_of(Tensor<S> matrix, AttentionShape shape, std::size_t sequence) {
  return matrix.row_range(sequence * shape.length, shape.length);
}

template <class S>
Head<S> head_of(Tensor<S> qkv, AttentionShape shape, std::size_t sequence, std::size_t head) {
  const Tensor<S> rows = rows_of(qkv, shape, sequence);
  const std::size_t width = qkv.columns / 3;
  const std::size_t size = width / shape.heads;
  const std::size_t first = head * size;
  return {rows.column_range(first, size), rows.column_range(width + first, size),
          rows.column_range(2 * width + first, size)};
}

template <class S>
Tensor<S> output_of(Tensor<S> output, AttentionShape shape, std::size_t sequence, std::size_t head) {
  const std::size_t size = output.columns / shape.heads;
  return rows_of(output, shape, sequence).column_range(head * size, size);
}

template <class S>
Tensor<S> weights_of(Tensor<S> weights, AttentionShape shape, std::size_t sequence, std::size_t head) {
  return weights.row_range((sequence * shape.heads + head) * shape.length, shape.length);
}

template <class S>
S scale_of(Tensor<const S> query) {
  return S{1} / std::sqrt(static_cast<S>(query.columns));
}

}  // namespace detail

}  // namespace gpt
