/// @file
/// ReferenceLinear: a linear layer over TiledLinear, as a host would write it, with a multiplication that adds in
/// increasing order of the summed index.
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/tiling/tiled_linear.hpp>

#include "toy_model.hpp"

namespace zerospan_test {

/// A row-major matrix.
struct Matrix {
  Matrix(std::size_t rows_, std::size_t columns_) : rows{rows_}, columns{columns_}, values(rows * columns) {}

  float& operator()(std::size_t r, std::size_t c) { return values[r * columns + c]; }
  float operator()(std::size_t r, std::size_t c) const { return values[r * columns + c]; }

  std::size_t rows;
  std::size_t columns;
  std::vector<float> values;
};

/// `start` plus `count` products, one multiply-add after the other.
template <class A, class B>
float add_products(float start, std::size_t count, A a, B b) {
  for (std::size_t k = 0; k < count; ++k) start = std::fma(a(k), b(k), start);
  return start;
}

template <zerospan::Element E, zerospan::HostTensor T = Array<E>>
class ReferenceLinear {
 public:
  using Tile = zerospan::Tile;

  template <class Engine>
  ReferenceLinear(Engine& engine, const std::string& name, zerospan::LinearExtents extents, zerospan::TileCounts tiles,
                  zerospan::ParameterOptions options = {}, const std::optional<zerospan::LinearBias>& bias = {})
      : extents_{extents}, layer_{declare(engine, name, extents, tiles, options, bias)} {}

  const zerospan::TiledLinear<T>& layer() const { return layer_; }

  Matrix forward(const Matrix& x) const {
    Matrix y{x.rows, extents_.outputs};
    layer_.forward(
        zerospan::calling_thread,
        [&](const Tile& tile, const T& weight) {
          const E* const w = elements_of<E>(weight);
          for_each(y.rows, tile.outputs, [&](std::size_t r, std::size_t o) {
            float& element = y(r, tile.outputs.first + o);
            element = add_products(
                tile.accumulates ? element : 0, tile.inputs.count,
                [&](std::size_t k) { return x(r, tile.inputs.first + k); },
                [&](std::size_t k) { return static_cast<float>(w[o * tile.inputs.count + k]); });
          });
        },
        [&](const T& bias) {
          const E* const b = elements_of<E>(bias);
          for_each(y.rows, {0, y.columns}, [&](std::size_t r, std::size_t o) { y(r, o) = static_cast<float>(b[o]); });
        });
    return y;
  }

  /// @return dx
  Matrix backward(const Matrix& x, const Matrix& dy) const {
    Matrix dx{x.rows, extents_.inputs};
    layer_.backward(
        zerospan::calling_thread,
        [&](const Tile& tile, const T& weight) { write_input_gradient(dy, tile, elements_of<E>(weight), dx); },
        [&](const Tile& tile, T& gradient) { write_weight_gradient(x, dy, tile, elements_of<E>(gradient)); },
        [&](T& gradient) { write_bias_gradient(dy, elements_of<E>(gradient)); });
    return dx;
  }

  /// The same for several micro-batches together. @return dx of each.
  std::vector<Matrix> backward(const std::vector<Matrix>& x, const std::vector<Matrix>& dy) const {
    std::vector<Matrix> dx;
    for (const Matrix& each : x) dx.push_back({each.rows, extents_.inputs});
    layer_.backward(
        zerospan::calling_thread, x.size(),
        [&](const Tile& tile, const T& weight) {
          for (std::size_t m = 0; m < x.size(); ++m) write_input_gradient(dy[m], tile, elements_of<E>(weight), dx[m]);
        },
        [&](std::size_t m, const Tile& tile, T& gradient) {
          write_weight_gradient(x[m], dy[m], tile, elements_of<E>(gradient));
        },
        [&](std::size_t m, T& gradient) { write_bias_gradient(dy[m], elements_of<E>(gradient)); });
    return dx;
  }

  static void write_input_gradient(const Matrix& dy, const Tile& tile, const E* w, Matrix& dx) {
    for_each(dx.rows, tile.inputs, [&](std::size_t r, std::size_t i) {
      float& element = dx(r, tile.inputs.first + i);
      element = add_products(
          tile.accumulates ? element : 0, tile.outputs.count,
          [&](std::size_t k) { return dy(r, tile.outputs.first + k); },
          [&](std::size_t k) { return static_cast<float>(w[k * tile.inputs.count + i]); });
    });
  }

  static void write_weight_gradient(const Matrix& x, const Matrix& dy, const Tile& tile, E* dw) {
    for_each(tile.outputs.count, {0, tile.inputs.count}, [&](std::size_t o, std::size_t i) {
      dw[o * tile.inputs.count + i] = E{add_products(
          0, x.rows, [&](std::size_t k) { return dy(k, tile.outputs.first + o); },
          [&](std::size_t k) { return x(k, tile.inputs.first + i); })};
    });
  }

  static void write_bias_gradient(const Matrix& dy, E* db) {
    for (std::size_t o = 0; o < dy.columns; ++o) {
      db[o] = E{add_products(
          0, dy.rows, [&](std::size_t k) { return dy(k, o); }, [](std::size_t) { return 1.0F; })};
    }
  }

 private:
  template <class F>
  static void for_each(std::size_t rows, zerospan::IndexRange columns, F f) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns.count; ++c) f(r, c);
    }
  }

  template <class Engine>
  static zerospan::TiledLinear<T> declare(Engine& engine, const std::string& name, zerospan::LinearExtents extents,
                                          zerospan::TileCounts tiles, zerospan::ParameterOptions options,
                                          const std::optional<zerospan::LinearBias>& bias) {
    const zerospan::Initializer normal = zerospan::init::normal(0.25F);
    if constexpr (zerospan::TypedTensor<T>) {
      return {engine, name, extents, tiles, normal, options, bias};
    } else {
      return {engine, name, extents, tiles, zerospan::ElementTraits<E>::type, normal, options, bias};
    }
  }

  zerospan::LinearExtents extents_;
  zerospan::TiledLinear<T> layer_;
};

}  // namespace zerospan_test
