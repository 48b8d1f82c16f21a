/// @file
/// y = x W^T + b, the weight in tiles.
#pragma once

#include <cstddef>
#include <string>

#include <zerospan/core/initializer.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/tiling/tiled_linear.hpp>

#include "factor.hpp"
#include "tensor.hpp"

namespace gpt {

/// Matrices decay, vectors do not.
inline constexpr zerospan::ParameterOptions not_decayed{.group = {.weight_decay_factor = 0.0F}};

template <class Parameter>
class Linear {
 public:
  using E = typename Parameter::tensor_type::element_type;

  /// @param tiles Into how many the outputs are cut.
  template <class Engine>
  Linear(Engine& engine, const std::string& name, std::size_t out, std::size_t in, std::size_t tiles, float deviation)
      : layer_{engine,
               name,
               {.outputs = out, .inputs = in},
               {.outputs = tiles},
               zerospan::init::normal(deviation),
               {},
               zerospan::LinearBias{.options = not_decayed}} {}

  /// @param x [n x in]
  /// @param y [n x out], overwritten.
  /// @param residual [n x out], added; or nothing.
  template <class Math, class Y>
  void forward(Math& math, Input<typename Math::Value> x, Tensor<Y> y, Input<Y> residual = {}) const {
    auto sum = math.sum_into(y, residual);
    layer_.forward(
        math.stream(), [&](const Tile& tile, Tensor<E> weight) { sum.add_product(tile, x, weight); },
        [&](Tensor<E> bias) { sum.set_bias(bias); });
    sum.finish();
  }

  /// Commits the gradients of bias and weight.
  /// @param dx [n x in], overwritten.
  template <class Math>
  void backward(Math& math, Input<typename Math::Value> x, Input<typename Math::Value> dy,
                Tensor<typename Math::Value> dx) const {
    using Gradient = Tensor<typename Math::Value>;
    layer_.backward(
        math.stream(),
        [&](const Tile& tile, Tensor<E> weight) {
          math.multiply(columns(dy, tile.outputs), math.operand(weight), columns(dx, tile.inputs),
                        tile.accumulates ? Assignment::add : Assignment::replace);
        },
        [&](const Tile& tile, Tensor<E> gradient) {
          math.write(gradient, [&](Gradient dweight) {
            math.multiply(transposed(columns(dy, tile.outputs)), columns(x, tile.inputs), dweight, Assignment::replace);
          });
        },
        [&](Tensor<E> gradient) { math.write(gradient, [&](Gradient dbias) { math.sum_of_rows(dy, dbias); }); });
  }

 private:
  using Tile = zerospan::Tile;

  zerospan::BasicTiledLinear<Parameter> layer_;
};

}  // namespace gpt
