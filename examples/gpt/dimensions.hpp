/// @file
/// The sizes of a model, and of what it is given.
#pragma once

#include <algorithm>
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

  std::size_t parameters() const {
    const std::size_t norm = 2 * width;
    const std::size_t block = 12 * width * width + 9 * width + 2 * norm;
    return (vocabulary + context) * width + layers * block + norm;
  }

  /// Elements of the largest group of parameters that is gathered at once.
  std::size_t largest_group() const {
    const std::size_t tile_rows = (width + tiles - 1) / tiles;
    return std::max(tile_rows * 4, vocabulary + context) * width;
  }
};

/// How the rows of activations are cut: `sequences` of `length` positions, each with `heads` heads.
struct AttentionShape {
  std::size_t sequences;
  std::size_t length;
  std::size_t heads;

  std::size_t positions() const { return sequences * length; }
};

}  // namespace gpt
