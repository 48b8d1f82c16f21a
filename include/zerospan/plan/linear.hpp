/// @file
/// plan::DeclaredLinear: a linear layer in tiles, as plans have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/tiling/tile_grid.hpp>

namespace zerospan::inline v0::plan {

/// Whether a linear layer has a bias: one vector, of all outputs.
enum class Bias : std::uint8_t { none, of_outputs };

/// y = x W^T + b, W being [outputs x inputs]. @see zerospan::BasicTiledLinear
struct LinearLayer {
  std::string name;
  LinearExtents extents;
  TileCounts tiles{};
  ElementType type = ElementType::float32;
  Bias bias = Bias::none;
  double rows = 0;  ///< Of x, in one micro-batch.
};

/// The parameters of such a layer in a model, and what a pass does with them: the declarations and leases of a
/// `TiledLinear`, in its order. A multiply-add is two operations.
class DeclaredLinear {
 public:
  /// Declares the tiles row by row, and then the bias. @throws ConfigurationError for no tiles, or more than there are
  /// outputs or inputs.
  DeclaredLinear(Model& model, LinearLayer layer) : layer_{std::move(layer)} {
    const TileGrid grid{layer_.name, layer_.extents, layer_.tiles};
    for (std::size_t row = 0; row < layer_.tiles.outputs; ++row) {
      for (std::size_t column = 0; column < layer_.tiles.inputs; ++column) {
        const Tile tile = grid.tile(row, column);
        const std::size_t index = model.declare({.name = layer_.name + ".weight" + grid.suffix(row, column),
                                                 .shape = {tile.outputs.count, tile.inputs.count},
                                                 .type = layer_.type});
        tiles_.push_back({index, static_cast<double>(tile.outputs.count * tile.inputs.count)});
      }
    }
    if (layer_.bias == Bias::none) return;
    bias_ = model.declare({.name = layer_.name + ".bias", .shape = {layer_.extents.outputs}, .type = layer_.type});
  }

  /// Of `BasicTiledLinear::forward`.
  std::vector<PassStep> forward() const {
    std::vector<PassStep> steps;
    if (bias_) steps.push_back({.name = layer_.name, .gathers = {*bias_}});
    for (const Part& part : tiles_) {
      steps.push_back({.name = layer_.name, .gathers = {part.weight}, .flops = flops(part)});
    }
    return steps;
  }

  /// Of `BasicTiledLinear::backward`: of each tile the gradient first, and then what it gives its inputs.
  std::vector<PassStep> backward() const {
    std::vector<PassStep> steps;
    if (bias_) steps.push_back({.name = layer_.name, .gradients = {*bias_}});
    for (std::size_t column = 0; column < layer_.tiles.inputs; ++column) {
      for (std::size_t row = 0; row < layer_.tiles.outputs; ++row) {
        const Part& part = tiles_[row * layer_.tiles.inputs + column];
        steps.push_back({.name = layer_.name, .gradients = {part.weight}, .flops = flops(part)});
        steps.push_back({.name = layer_.name, .gathers = {part.weight}, .flops = flops(part)});
      }
    }
    return steps;
  }

 private:
  /// A tile's parameter.
  struct Part {
    std::size_t weight;
    double elements;
  };

  double flops(const Part& part) const { return 2 * layer_.rows * part.elements; }

  LinearLayer layer_;
  std::vector<Part> tiles_;
  std::optional<std::size_t> bias_;
};

}  // namespace zerospan::inline v0::plan
