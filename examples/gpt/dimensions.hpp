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

  /// Calls `visit(elements)` for each parameter, the weights of linear layers whole.
  template <class Visit>
  void for_each_parameter(Visit visit) const {
    visit(vocabulary * width);
    visit(context * width);
    for (std::size_t i = 0; i < layers; ++i) {
      for (const std::size_t outputs : {3 * width, width, 4 * width}) {  // attention's, and the first of the perceptron
        visit(outputs * width);
        visit(outputs);
      }
      visit(4 * width * width);
      for (int vectors = 0; vectors < 5; ++vectors) visit(width);  // the last bias, and two normalizations
    }
    for (int vectors = 0; vectors < 2; ++vectors) visit(width);
  }

  std::size_t parameters() const {
    std::size_t sum = 0;
    for_each_parameter([&sum](std::size_t elements) { sum += elements; });
    return sum;
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
