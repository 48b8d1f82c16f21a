/// @file
/// GPT-2 over bytes: forward and backward, with each weight gathered for its use and released after it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/stream.hpp>

#include "activations.hpp"
#include "attention.hpp"
#include "batch.hpp"
#include "cross_entropy.hpp"
#include "embedding.hpp"
#include "gelu.hpp"
#include "layer_norm.hpp"
#include "linear.hpp"
#include "parameters.hpp"
#include "scratch.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @tparam Parameter zerospan::PartitionedParameter of a Tensor, or a type with the same leases.
template <class Parameter>
class Model {
 public:
  using E = typename Parameter::tensor_type::element_type;
  using S = Scalar<E>;

  /// Declares the parameters in `engine`, which outlives the model's use.
  template <class Engine>
  Model(Engine& engine, const Dimensions& dimensions)
      : dimensions_{dimensions}, parameters_{engine, dimensions}, scratch_{largest_group(dimensions)} {}

  const Dimensions& dimensions() const { return dimensions_; }

  /// Fills `a.logits`, a row for each token.
  void forward(std::span<const std::uint8_t> tokens, std::size_t length, Activations<S>& a) {
    a.arrange(shape_of(tokens.size(), length));
    forward_embedding(tokens, length, a);
    for (std::size_t layer = 0; layer < dimensions_.layers; ++layer) {
      forward_attention(layer, shape_of(tokens.size(), length), a);
      forward_mlp(layer, a);
    }
    forward_head(a);
  }

  /// @return The sum of the tokens' losses, in nats.
  double loss(const Batch& batch, Activations<S>& a) {
    forward(batch.tokens, batch.length, a);
    return cross_entropy_forward(a.logits, batch.targets);
  }

  /// Commits the gradient of the mean loss of the batch's tokens, times `loss_scale`, parameter by parameter, last
  /// layer first.
  /// @param a Kept every block.
  /// @return The mean loss, in nats.
  double train(const Batch& batch, Activations<S>& a, ActivationGradients<S>& d, float loss_scale = 1) {
    const AttentionShape shape = shape_of(batch.tokens.size(), batch.length);
    const double total = loss(batch, a);
    d.arrange(shape);
    cross_entropy_backward(batch.targets, a.logits, loss_scale);
    backward_head(a, d);
    for (std::size_t layer = dimensions_.layers; layer-- > 0;) {
      backward_mlp(layer, a, d);
      backward_attention(layer, shape, a, d);
    }
    backward_embedding(batch, d);
    return total / static_cast<double>(batch.tokens.size());
  }

 private:
  static constexpr zerospan::StreamRef stream = zerospan::calling_thread;

  /// Elements of the largest group of parameters that is gathered at once.
  static std::size_t largest_group(const Dimensions& d) {
    return std::max(4 * d.width * d.width + 6 * d.width, (Dimensions::vocabulary + d.context + 2) * d.width);
  }

  AttentionShape shape_of(std::size_t tokens, std::size_t length) const {
    return {tokens / length, length, dimensions_.heads};
  }

  void forward_embedding(std::span<const std::uint8_t> tokens, std::size_t length, Activations<S>& a) {
    const auto leases = gather(stream, parameters_.token, parameters_.position);
    const auto [token, position] = scratch_.widen(leases);
    embedding_forward(tokens, length, token, position, a.embedded);
  }

  void forward_attention(std::size_t layer, AttentionShape shape, Activations<S>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    {
      const auto leases = gather(stream, block.norm1.weight, block.norm1.bias, block.qkv.weight, block.qkv.bias);
      const auto [norm_weight, norm_bias, weight, bias] = scratch_.widen(leases);
      layer_norm_forward<S>(a.stream(layer), norm_weight, norm_bias, b.normed1, b.norm1);
      linear_forward(b.normed1, weight, bias, b.qkv);
    }
    attention_forward(b.qkv, shape, b.weights, b.attended);
    {
      const auto leases = gather(stream, block.projection.weight, block.projection.bias);
      const auto [weight, bias] = scratch_.widen(leases);
      linear_forward(b.attended, weight, bias, b.middle);
    }
    add(a.stream(layer), b.middle);
  }

  void forward_mlp(std::size_t layer, Activations<S>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    {
      const auto leases = gather(stream, block.norm2.weight, block.norm2.bias, block.up.weight, block.up.bias);
      const auto [norm_weight, norm_bias, weight, bias] = scratch_.widen(leases);
      layer_norm_forward<S>(b.middle, norm_weight, norm_bias, b.normed2, b.norm2);
      linear_forward(b.normed2, weight, bias, b.up);
    }
    gelu_forward(b.up, b.activated);
    {
      const auto leases = gather(stream, block.down.weight, block.down.bias);
      const auto [weight, bias] = scratch_.widen(leases);
      linear_forward(b.activated, weight, bias, b.output);
    }
    add(b.middle, b.output);
  }

  void forward_head(Activations<S>& a) {
    const auto leases = gather(stream, parameters_.norm.weight, parameters_.norm.bias, parameters_.head);
    const auto [norm_weight, norm_bias, weight] = scratch_.widen(leases);
    layer_norm_forward<S>(a.stream(dimensions_.layers), norm_weight, norm_bias, a.normed, a.norm);
    multiply(a.normed, transposed(weight), a.logits);
  }

  void backward_head(const Activations<S>& a, ActivationGradients<S>& d) {
    commit(parameters_.head, [&](Tensor<S> gradient) { linear_backward_weight(a.normed, a.logits, gradient); });
    backward_input(parameters_.head, a.logits, d.narrow);
    std::fill_n(d.stream.data, d.stream.size(), S{0});
    backward_norm(parameters_.norm, a.stream(dimensions_.layers), a.norm, d);
  }

  void backward_mlp(std::size_t layer, const Activations<S>& a, ActivationGradients<S>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    commit_linear(block.down, b.activated, d.stream);
    backward_input(block.down.weight, d.stream, d.wide);
    gelu_backward(b.up, d.wide);
    commit_linear(block.up, b.normed2, d.wide);
    backward_input(block.up.weight, d.wide, d.narrow);
    backward_norm(block.norm2, b.middle, b.norm2, d);
  }

  void backward_attention(std::size_t layer, AttentionShape shape, const Activations<S>& a, ActivationGradients<S>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    commit_linear(block.projection, b.attended, d.stream);
    backward_input(block.projection.weight, d.stream, d.narrow);
    attention_backward(b.qkv, b.weights, d.narrow, shape, d.weights, d.qkv);
    commit_linear(block.qkv, b.normed1, d.qkv);
    backward_input(block.qkv.weight, d.qkv, d.narrow);
    backward_norm(block.norm1, a.stream(layer), b.norm1, d);
  }

  void backward_embedding(const Batch& batch, const ActivationGradients<S>& d) {
    commit(parameters_.position,
           [&](Tensor<S> gradient) { embedding_backward_position(batch.length, d.stream, gradient); });
    commit(parameters_.token, [&](Tensor<S> gradient) { embedding_backward_token(batch.tokens, d.stream, gradient); });
  }

  /// Leases a parameter's gradient, has `write` fill all of it, and hands it over.
  template <class Write>
  void commit(const Parameter& parameter, Write write) {
    auto gradient = parameter.gradient(stream);
    scratch_.fill(*gradient, write);
    gradient.commit();
  }

  void commit_linear(const Linear<Parameter>& linear, Tensor<const S> x, Tensor<const S> dy) {
    commit(linear.bias, [&](Tensor<S> gradient) { linear_backward_bias(dy, gradient); });
    commit(linear.weight, [&](Tensor<S> gradient) { linear_backward_weight(x, dy, gradient); });
  }

  void backward_input(const Parameter& matrix, Tensor<const S> dy, Tensor<S> dx) {
    const auto leases = gather(stream, matrix);
    const auto [weight] = scratch_.widen(leases);
    linear_backward_input(dy, weight, dx);
  }

  /// Takes `d.narrow`, the gradient of the normalization's output, on to `d.stream`.
  void backward_norm(const Norm<Parameter>& norm, Tensor<const S> x, RowStatistics<S> statistics,
                     ActivationGradients<S>& d) {
    commit(norm.bias, [&](Tensor<S> gradient) { layer_norm_backward_bias(d.narrow, gradient); });
    commit(norm.weight, [&](Tensor<S> gradient) { layer_norm_backward_weight<S>(x, d.narrow, statistics, gradient); });
    const auto leases = gather(stream, norm.weight);
    const auto [weight] = scratch_.widen(leases);
    layer_norm_backward_input<S>(x, weight, d.narrow, statistics, d.stream);
  }

  Dimensions dimensions_;
  Parameters<Parameter> parameters_;
  Scratch<E> scratch_;
};

}  // namespace gpt
