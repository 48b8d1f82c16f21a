/// @file
/// What a layer normalization's backward pass needs of each row.
#pragma once

#include "tensor.hpp"

namespace gpt {

inline constexpr double layer_norm_epsilon = 1e-5;

/// Vectors of as many elements as the normalized matrix has rows.
template <class S>
struct RowStatistics {
  Tensor<S> mean;
  Tensor<S> inverse_deviation;
};

}  // namespace gpt
