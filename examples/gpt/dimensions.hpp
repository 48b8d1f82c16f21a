/// @file
/// The sizes of a model, and of what it is given.
#pragma once

#include <cstddef>

namespace gpt {

/// The sizes of a model. The vocabulary is the bytes.
struct Dimensions {
  static constexpr std::size_t vocabulary = 256;

  std::size_t layers;
  std::size_t heads;
  std::size_t width;
  std::size_t context;    ///< The longest sequence.
  std::size_t tiles = 1;  ///< Into which the weight of each linear layer is cut.
};

/// How the rows of activations are cut: `sequences` of `length` positions, each with `heads` heads.
struct AttentionShape {
  std::size_t sequences;
  std::size_t length;
  std::size_t heads;

  std::size_t positions() const { return sequences * length; }
};

}  // namespace gpt
