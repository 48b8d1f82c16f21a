/// @file
/// Causal multi-head self-attention on the GPU: batches of products, and a softmax in between.
#pragma once

#include <cmath>
#include <cstddef>

#include <cuda_runtime_api.h>

#include "../dimensions.hpp"
#include "../factor.hpp"
#include "../heads.hpp"
#include "../tensor.hpp"
#include "head_batches.hpp"
#include "kernels.hpp"
#include "product.hpp"
#include "products.hpp"

namespace gpt::cuda {

namespace detail {

/// Matrices of one head of one sequence.
template <class S>
struct HeadMatrices {
  AttentionShape shape;

  auto query(Tensor<S> qkv) const { return part(qkv, &gpt::detail::Head<S>::query); }
  auto key(Tensor<S> qkv) const { return part(qkv, &gpt::detail::Head<S>::key); }
  auto value(Tensor<S> qkv) const { return part(qkv, &gpt::detail::Head<S>::value); }
  auto output(Tensor<S> output) const {
    return
        [output, shape = shape](std::size_t s, std::size_t h) { return gpt::detail::output_of(output, shape, s, h); };
  }
  auto weights(Tensor<S> weights) const {
    return [weights, shape = shape](std::size_t s, std::size_t h) {
      return gpt::detail::weights_of(weights, shape, s, h);
    };
  }

 private:
  auto part(Tensor<S> qkv, Tensor<S> gpt::detail::Head<S>::*member) const {
    return [qkv, member, shape = shape](std::size_t s, std::size_t h) {
      return gpt::detail::head_of(qkv, shape, s, h).*member;
    };
  }
};

inline float attention_scale(std::size_t width, AttentionShape shape) {
  return 1.0F / std::sqrt(static_cast<float>(width / shape.heads));
}

}  // namespace detail

/// @param qkv     [sequences length x 3 width]: queries, keys and values side by side, each head by head.
/// @param weights [sequences heads length x length]: the attention weights, for the backward pass.
/// @param output  [sequences length x width], overwritten.
template <class S>
void attention_forward(cudaStream_t stream, Products& products, Input<S> qkv, AttentionShape shape, Tensor<S> weights,
                       Tensor<S> output) {
  const HeadBatches batches{shape};
  const detail::HeadMatrices<const S> in{shape};
  const detail::HeadMatrices<S> out{shape};
  for (std::size_t i = 0; i < batches.count(); ++i) {
    products.multiply(Product{.a = batches.operand(i, in.query(qkv)),
                              .order_a = Order::straight,
                              .b = batches.operand(i, in.key(qkv)),
                              .order_b = Order::transposed,
                              .result = batches.operand(i, out.weights(weights)),
                              .batch = batches.size(),
                              .scale = detail::attention_scale(output.columns, shape)});
  }
  Kernels<S>::causal_softmax_forward(stream, weights);
  for (std::size_t i = 0; i < batches.count(); ++i) {
    products.multiply(Product{.a = batches.operand(i, out.weights(weights)),
                              .order_a = Order::straight,
                              .b = batches.operand(i, in.value(qkv)),
                              .order_b = Order::straight,
                              .result = batches.operand(i, out.output(output)),
                              .batch = batches.size()});
  }
}

/// @param doutput  [sequences length x width]
/// @param dweights [sequences heads length x length], scratch.
/// @param dqkv     [sequences length x 3 width], overwritten.
template <class S>
void attention_backward(cudaStream_t stream, Products& products, Input<S> qkv, Input<S> weights, Input<S> doutput,
                        AttentionShape shape, Tensor<S> dweights, Tensor<S> dqkv) {
  const HeadBatches batches{shape};
  const detail::HeadMatrices<const S> in{shape};
  const detail::HeadMatrices<S> out{shape};
  const float scale = detail::attention_scale(doutput.columns, shape);
  for (std::size_t i = 0; i < batches.count(); ++i) {
    products.multiply(Product{.a = batches.operand(i, in.output(doutput)),
                              .order_a = Order::straight,
                              .b = batches.operand(i, in.value(qkv)),
                              .order_b = Order::transposed,
                              .result = batches.operand(i, out.weights(dweights)),
                              .batch = batches.size()});
    products.multiply(Product{.a = batches.operand(i, in.weights(weights)),
                              .order_a = Order::transposed,
                              .b = batches.operand(i, in.output(doutput)),
                              .order_b = Order::straight,
                              .result = batches.operand(i, out.value(dqkv)),
                              .batch = batches.size()});
  }
  Kernels<S>::causal_softmax_backward(stream, weights, dweights);
  for (std::size_t i = 0; i < batches.count(); ++i) {
    products.multiply(Product{.a = batches.operand(i, out.weights(dweights)),
                              .order_a = Order::straight,
                              .b = batches.operand(i, in.key(qkv)),
                              .order_b = Order::straight,
                              .result = batches.operand(i, out.query(dqkv)),
                              .batch = batches.size(),
                              .scale = scale});
    products.multiply(Product{.a = batches.operand(i, out.weights(dweights)),
                              .order_a = Order::transposed,
                              .b = batches.operand(i, in.query(qkv)),
                              .order_b = Order::straight,
                              .result = batches.operand(i, out.key(dqkv)),
                              .batch = batches.size(),
                              .scale = scale});
  }
}

}  // namespace gpt::cuda
