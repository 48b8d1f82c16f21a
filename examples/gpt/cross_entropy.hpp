/// @file
/// The negative log-likelihood of the targets under softmax(logits).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @param logits  [n x vocabulary]; replaced by the probabilities.
/// @param targets [n]
/// @return The sum over the rows, in nats.
template <class S>
double cross_entropy_forward(Tensor<S> logits, std::span<const std::uint8_t> targets) {
  double total = 0.0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const S logit = logits.row(i)[targets[i]];
    total += static_cast<double>(softmax(logits.row(i), logits.columns) - logit);
  }
  return total;
}

/// Turns the probabilities into the gradient of the mean over the rows, times `loss_scale`, with respect to the logits.
template <class S>
void cross_entropy_backward(std::span<const std::uint8_t> targets, Tensor<S> probabilities, float loss_scale = 1) {
  const S scale = S{loss_scale} / static_cast<S>(targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i) {
    S* row = probabilities.row(i);
    row[targets[i]] -= S{1};
    for (std::size_t c = 0; c < probabilities.columns; ++c) row[c] *= scale;
  }
}

}  // namespace gpt
