/// @file
/// y = x W^T + b, the weight in tiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include <zerospan/core/initializer.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/tiling/tiled_linear.hpp>

#include "blas.hpp"
#include "scratch.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// Matrices decay, vectors do not.
inline constexpr zerospan::ParameterOptions not_decayed{.group = {.weight_decay_factor = 0.0F}};

template <class Parameter>
class Linear {
 public:
  using E = typename Parameter::tensor_type::element_type;
  using S = Scalar<E>;

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
  /// @param scratch For a tile, or the bias.
  void forward(Tensor<const S> x, Tensor<S> y, Scratch<E>& scratch) const {
    layer_.forward(
        zerospan::calling_thread,
        [&](const Tile& tile, Tensor<E> weight) {
          multiply(part(x, tile.inputs), transposed(scratch.widen(weight)), part(y, tile.outputs), 1, kept(tile));
        },
        [&](Tensor<E> narrow) {
          const Tensor<const S> bias = scratch.widen(narrow);
          for (std::size_t r = 0; r < y.rows; ++r) std::copy_n(bias.data, bias.columns, y.row(r));
        });
  }

  /// Commits the gradients of bias and weight.
  /// @param dx [n x in], overwritten.
  void backward(Tensor<const S> x, Tensor<const S> dy, Tensor<S> dx, Scratch<E>& scratch) const {
    layer_.backward(
        zerospan::calling_thread,
        [&](const Tile& tile, Tensor<E> weight) {
          multiply(part(dy, tile.outputs), scratch.widen(weight), part(dx, tile.inputs), 1, kept(tile));
        },
        [&](const Tile& tile, Tensor<E> gradient) {
          scratch.fill(gradient, [&](Tensor<S> dweight) {
            multiply(transposed(part(dy, tile.outputs)), part(x, tile.inputs), dweight);
          });
        },
        [&](Tensor<E> gradient) { scratch.fill(gradient, [&](Tensor<S> dbias) { sum_of_rows(dy, dbias); }); });
  }

 private:
  using Tile = zerospan::Tile;

  template <class T>
  static Tensor<T> part(Tensor<T> matrix, zerospan::IndexRange columns) {
    return matrix.column_range(columns.first, columns.count);
  }

  /// The factor of what is there.
  static S kept(const Tile& tile) { return tile.accumulates ? S{1} : S{0}; }

  zerospan::BasicTiledLinear<Parameter> layer_;
};

}  // namespace gpt
