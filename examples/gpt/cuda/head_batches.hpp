/// @file
/// The heads of attention as batches of equally spaced matrices.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../dimensions.hpp"
#include "product.hpp"

namespace gpt::cuda {

/// A batch is of one head in every sequence, or of all heads in one sequence: whichever makes fewer batches.
class HeadBatches {
 public:
  explicit HeadBatches(AttentionShape shape) : shape_{shape} {}

  std::size_t count() const { return std::min(shape_.heads, shape_.sequences); }

  /// Matrices in a batch.
  std::size_t size() const { return std::max(shape_.heads, shape_.sequences); }

  /// The matrices `matrix_of(sequence, head)` of a batch.
  template <class MatrixOf>
  Operand operand(std::size_t batch, MatrixOf matrix_of) const {
    const auto matrix = [&](std::size_t i) {
      return shape_.heads <= shape_.sequences ? matrix_of(i, batch) : matrix_of(batch, i);
    };
    const auto first = matrix(0);
    return {first, size() > 1 ? static_cast<std::size_t>(matrix(1).data - first.data) : 0};
  }

 private:
  AttentionShape shape_;
};

}  // namespace gpt::cuda
