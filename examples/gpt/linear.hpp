/// @file
/// y = x W^T + b, the weight in tiles.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/initializer.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/tiling/tiled_linear.hpp>

#include "factor.hpp"
#include "tensor.hpp"

namespace gpt {

/// Matrices decay, vectors do not.
inline constexpr zerospan::ParameterOptions not_decayed{.group = {.weight_decay_factor = 0.0F}};

/// One micro-batch in a layer's forward pass. @tparam X Of the input. @tparam Y Of the output.
template <class X, class Y>
struct LinearForward {
  Tensor<const X> x;           ///< [n x in]
  Tensor<Y> y;                 ///< [n x out], overwritten.
  Tensor<const Y> residual{};  ///< [n x out], added; or nothing.
};

/// One in its backward pass.
template <class X>
struct LinearBackward {
  Tensor<const X> x;   ///< [n x in]
  Tensor<const X> dy;  ///< [n x out]
  Tensor<X> dx;        ///< [n x in], overwritten.
};

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

  /// Each tile is gathered once for all micro-batches.
  template <class Math, class Y>
  void forward(Math& math, const std::vector<LinearForward<typename Math::Value, Y>>& all) const {
    std::vector<decltype(math.sum_into(all[0].y, all[0].residual))> sums;
    sums.reserve(all.size());
    for (const auto& each : all) sums.push_back(math.sum_into(each.y, each.residual));
    layer_.forward(
        math.stream(),
        [&](const Tile& tile, Tensor<E> weight) {
          for (std::size_t i = 0; i < all.size(); ++i) sums[i].add_product(tile, all[i].x, weight);
        },
        [&](Tensor<E> bias) {
          for (auto& sum : sums) sum.set_bias(bias);
        });
    for (auto& sum : sums) sum.finish();
  }

  /// Commits the gradients of bias and weight, of the first micro-batch first. Each tile is gathered once for all.
  template <class Math>
  void backward(Math& math, const std::vector<LinearBackward<typename Math::Value>>& all) const {
    layer_.backward(
        math.stream(), all.size(),
        [&](const Tile& tile, Tensor<E> weight) {
          const auto operand = math.operand(weight);
          for (const auto& each : all) {
            math.multiply(columns(each.dy, tile.outputs), operand, columns(each.dx, tile.inputs),
                          tile.accumulates ? Assignment::add : Assignment::replace);
          }
        },
        [&](std::size_t i, const Tile& tile, Tensor<E> gradient) {
          math.write_product(gradient, transposed(columns(all[i].dy, tile.outputs)), columns(all[i].x, tile.inputs));
        },
        [&](std::size_t i, Tensor<E> gradient) {
          math.write(gradient, [&](Tensor<typename Math::Value> dbias) { math.sum_of_rows(all[i].dy, dbias); });
        });
  }

 private:
  using Tile = zerospan::Tile;

  zerospan::BasicTiledLinear<Parameter> layer_;
};

}  // namespace gpt
