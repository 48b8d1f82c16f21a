/// @file
/// Token and learned position embeddings, added.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor.hpp"

namespace gpt {

/// @param tokens    [n]: sequences of `length` each
/// @param token     [vocabulary x width]
/// @param position  [context x width], context >= length
/// @param y         [n x width]
template <class S>
void embedding_forward(std::span<const std::uint8_t> tokens, std::size_t length, Input<S> token, Input<S> position,
                       Tensor<S> y) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const S* a = token.row(tokens[i]);
    const S* b = position.row(i % length);
    S* out = y.row(i);
    for (std::size_t c = 0; c < y.columns; ++c) out[c] = a[c] + b[c];
  }
}

namespace detail {

/// Adds each row of dy to the row of `gradient` that `index_of` names; rows that none names are zero.
template <class S, class Index>
void scatter_rows(Tensor<const S> dy, Tensor<S> gradient, Index index_of) {
  std::fill_n(gradient.data, gradient.size(), S{0});
  for (std::size_t i = 0; i < dy.rows; ++i) {
    const S* from = dy.row(i);
    S* to = gradient.row(index_of(i));
    for (std::size_t c = 0; c < dy.columns; ++c) to[c] += from[c];
  }
}

}  // namespace detail

/// @param dtoken [vocabulary x width], overwritten.
template <class S>
void embedding_backward_token(std::span<const std::uint8_t> tokens, Input<S> dy, Tensor<S> dtoken) {
  detail::scatter_rows<S>(dy, dtoken, [tokens](std::size_t i) { return std::size_t{tokens[i]}; });
}

/// @param dposition [context x width], overwritten.
template <class S>
void embedding_backward_position(std::size_t length, Input<S> dy, Tensor<S> dposition) {
  detail::scatter_rows<S>(dy, dposition, [length](std::size_t i) { return i % length; });
}

}  // namespace gpt
