/// @file
/// A micro-batch on its way through the model.
#pragma once

#include <cstddef>

#include "activations.hpp"
#include "batch.hpp"
#include "dimensions.hpp"

namespace gpt {

/// Its data, and the memory that it has to itself until it is through.
template <class Math>
struct MicroBatch {
  Batch batch;  ///< Staged.
  Activations<Math>* a;
  ActivationGradients<Math>* d = nullptr;  ///< nullptr: there is no backward pass.

  AttentionShape shape(std::size_t heads) const { return {batch.tokens.size() / batch.length, batch.length, heads}; }
};

}  // namespace gpt
