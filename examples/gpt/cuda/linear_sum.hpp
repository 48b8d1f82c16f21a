/// @file
/// A linear layer's output on the GPU: bias and residual join in the products that they are added to.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include <zerospan/tiling/tile_grid.hpp>

#include "../factor.hpp"
#include "../tensor.hpp"
#include "kernels.hpp"
#include "product.hpp"
#include "products.hpp"

namespace gpt::cuda {

/// y = residual + bias + products.
/// @tparam E Of the parameters and of x. @tparam Y Of y and the residual.
template <class E, class Y>
class LinearSum {
 public:
  /// @param bias Memory for as many floats as y has columns, until `finish` nobody else's but other sums' of the same
  /// bias.
  /// @param residual May be without data.
  LinearSum(cudaStream_t stream, Products& products, float* bias, Tensor<Y> y, Tensor<const Y> residual)
      : stream_{stream},
        products_{products},
        bias_{reinterpret_cast<Y*>(bias), 1, y.columns},
        y_(y),
        residual_(residual) {}

  /// Keeps a copy, for the lease ends before the products begin.
  void set_bias(Tensor<E> bias) { convert<E, Y>(stream_, bias, bias_); }

  /// What is the same for all products of a range of outputs is added to the first of them.
  void add_product(const zerospan::Tile& tile, Tensor<const E> x, Tensor<E> weight) {
    const Tensor<Y> result = columns(y_, tile.outputs);
    const bool is_first = tile.inputs.first == 0;
    const Tensor<const Y> addend = !is_first        ? Tensor<const Y>(result)
                                   : residual_.data ? columns(residual_, tile.outputs)
                                                    : Tensor<const Y>{};
    products_.multiply(Product{.a = columns(x, tile.inputs),
                               .order_a = Order::straight,
                               .b = weight,
                               .order_b = Order::transposed,
                               .result = result,
                               .addend = addend.data,
                               .addend_stride = addend.stride,
                               .bias = is_first ? bias_.data + tile.outputs.first : nullptr});
  }

  void finish() {}

 private:
  cudaStream_t stream_;
  Products& products_;
  Tensor<Y> bias_;
  Tensor<Y> y_;
  Tensor<const Y> residual_;
};

}  // namespace gpt::cuda
