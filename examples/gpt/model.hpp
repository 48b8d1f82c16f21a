/// @file
/// GPT-2 over bytes: forward and backward, with each weight gathered for its use and released after it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/core/stream.hpp>

#include "activations.hpp"
#include "attention.hpp"
#include "batch.hpp"
#include "blas.hpp"
#include "cross_entropy.hpp"
#include "embedding.hpp"
#include "gelu.hpp"
#include "layer_norm.hpp"
#include "parameters.hpp"
#include "scratch.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"
#include "zerospan_adapter.hpp"

namespace gpt {

/// @tparam Parameter zerospan::PartitionedParameter of a Tensor, or a type with the same leases.
template <class Parameter>
class Model {
 public:
  using E = typename Parameter::tensor_type::element_type;
  using S = Scalar<E>;
  using Checkpoints = zerospan::ActivationCheckpoints;

  /// Whether the scalars are of a type that checkpoints take.
  static constexpr bool has_checkpoints = zerospan::HostTensor<Tensor<S>>;

  /// Declares the parameters in `engine`, which outlives the model's use.
  template <class Engine>
  Model(Engine& engine, const Dimensions& dimensions)
      : dimensions_{dimensions}, parameters_{engine, dimensions}, scratch_{largest_group(dimensions)} {}

  const Dimensions& dimensions() const { return dimensions_; }

  /// Fills `a.logits`, a row for each token. @param checkpoints Take what enters each segment; nullptr: nothing.
  void forward(std::span<const std::uint8_t> tokens, std::size_t length, Activations<S>& a,
               Checkpoints* checkpoints = nullptr) {
    a.arrange(shape_of(tokens.size(), length));
    forward_embedding(tokens, length, a);
    for (std::size_t layer = 0; layer < dimensions_.layers; ++layer) {
      if (checkpoints && layer % a.segment() == 0) push(*checkpoints, a.stream(layer));
      forward_block(layer, shape_of(tokens.size(), length), a);
    }
    forward_head(a);
  }

  /// @return The sum of the tokens' losses, in nats.
  double loss(const Batch& batch, Activations<S>& a, Checkpoints* checkpoints = nullptr) {
    forward(batch.tokens, batch.length, a, checkpoints);
    return cross_entropy_forward(a.logits, batch.targets);
  }

  /// Commits the gradient of the mean loss of the batch's tokens, times `loss_scale`, parameter by parameter, last
  /// layer first.
  /// @param a A segment of all blocks, where there are no checkpoints.
  /// @param checkpoints Where what enters each segment rests; the segment is recomputed from it.
  /// @return The mean loss, in nats.
  double train(const Batch& batch, Activations<S>& a, ActivationGradients<S>& d, float loss_scale = 1,
               Checkpoints* checkpoints = nullptr) {
    const AttentionShape shape = shape_of(batch.tokens.size(), batch.length);
    const double total = loss(batch, a, checkpoints);
    d.arrange(shape);
    cross_entropy_backward(batch.targets, a.logits, loss_scale);
    backward_head(a, d);
    for (std::size_t end = dimensions_.layers; end > 0; end = (end - 1) / a.segment() * a.segment()) {
      backward_segment(end, shape, a, d, checkpoints);
    }
    backward_embedding(batch, d);
    return total / static_cast<double>(batch.tokens.size());
  }

 private:
  static constexpr zerospan::StreamRef stream = zerospan::calling_thread;

  /// Elements of the largest group of parameters that is gathered at once.
  static std::size_t largest_group(const Dimensions& d) {
    const std::size_t tile_rows = (d.width + d.tiles - 1) / d.tiles;
    return std::max(tile_rows * 4, Dimensions::vocabulary + d.context) * d.width;
  }

  AttentionShape shape_of(std::size_t tokens, std::size_t length) const {
    return {tokens / length, length, dimensions_.heads};
  }

  void forward_embedding(std::span<const std::uint8_t> tokens, std::size_t length, Activations<S>& a) {
    const auto leases = gather(stream, parameters_.token, parameters_.position);
    const auto [token, position] = scratch_.widen(leases);
    embedding_forward(tokens, length, token, position, a.embedded);
  }

  void forward_block(std::size_t layer, AttentionShape shape, Activations<S>& a) {
    forward_attention(layer, shape, a);
    forward_mlp(layer, a);
  }

  void forward_attention(std::size_t layer, AttentionShape shape, Activations<S>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    forward_norm(block.norm1, a.stream(layer), b.normed1, b.norm1);
    block.qkv.forward(b.normed1, b.qkv, scratch_);
    attention_forward(b.qkv, shape, b.weights, b.attended);
    block.projection.forward(b.attended, b.middle, scratch_);
    add(a.stream(layer), b.middle);
  }

  void forward_mlp(std::size_t layer, Activations<S>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    forward_norm(block.norm2, b.middle, b.normed2, b.norm2);
    block.up.forward(b.normed2, b.up, scratch_);
    gelu_forward(b.up, b.activated);
    block.down.forward(b.activated, b.output, scratch_);
    add(b.middle, b.output);
  }

  void forward_head(Activations<S>& a) {
    forward_norm(parameters_.norm, a.stream(dimensions_.layers), a.normed, a.norm);
    const auto leases = gather(stream, parameters_.head);
    const auto [weight] = scratch_.widen(leases);
    multiply(a.normed, transposed(weight), a.logits);
  }

  void forward_norm(const Norm<Parameter>& norm, Tensor<const S> x, Tensor<S> y, RowStatistics<S> statistics) {
    const auto leases = gather(stream, norm.weight, norm.bias);
    const auto [weight, bias] = scratch_.widen(leases);
    layer_norm_forward<S>(x, weight, bias, y, statistics);
  }

  void backward_head(const Activations<S>& a, ActivationGradients<S>& d) {
    commit(parameters_.head, [&](Tensor<S> gradient) { multiply(transposed(a.logits), a.normed, gradient); });
    {
      const auto leases = gather(stream, parameters_.head);
      const auto [weight] = scratch_.widen(leases);
      multiply(a.logits, weight, d.narrow);
    }
    std::fill_n(d.stream.data, d.stream.size(), S{0});
    backward_norm(parameters_.norm, a.stream(dimensions_.layers), a.norm, d);
  }

  /// The blocks from the last checkpoint up to `end`. The activations of the model's last segment are still there.
  void backward_segment(std::size_t end, AttentionShape shape, Activations<S>& a, ActivationGradients<S>& d,
                        Checkpoints* checkpoints) {
    const std::size_t first = (end - 1) / a.segment() * a.segment();
    const auto backward = [&] {
      for (std::size_t layer = end; layer-- > first;) backward_block(layer, shape, a, d);
    };
    if (!checkpoints) return backward();
    pop(*checkpoints, [&](Tensor<const S> input) {
      a.resume(first, input);
      for (std::size_t layer = first; layer < end && end < dimensions_.layers; ++layer) forward_block(layer, shape, a);
      backward();
    });
  }

  static void push(Checkpoints& checkpoints, Tensor<const S> x) {
    if constexpr (has_checkpoints) {
      auto saved = checkpoints.push<Tensor<S>>(stream, {x.rows, x.columns});
      std::copy_n(x.data, x.size(), saved->data);
      saved.commit();
    }
  }

  template <class Use>
  static void pop(Checkpoints& checkpoints, Use use) {
    if constexpr (has_checkpoints) use(*checkpoints.pop<Tensor<S>>(stream));
  }

  void backward_block(std::size_t layer, AttentionShape shape, const Activations<S>& a, ActivationGradients<S>& d) {
    backward_mlp(layer, a, d);
    backward_attention(layer, shape, a, d);
  }

  void backward_mlp(std::size_t layer, const Activations<S>& a, ActivationGradients<S>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    block.down.backward(b.activated, d.stream, d.wide, scratch_);
    gelu_backward(b.up, d.wide);
    block.up.backward(b.normed2, d.wide, d.narrow, scratch_);
    backward_norm(block.norm2, b.middle, b.norm2, d);
  }

  void backward_attention(std::size_t layer, AttentionShape shape, const Activations<S>& a, ActivationGradients<S>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<S>& b = a.block(layer);
    block.projection.backward(b.attended, d.stream, d.narrow, scratch_);
    attention_backward(b.qkv, b.weights, d.narrow, shape, d.weights, d.qkv);
    block.qkv.backward(b.normed1, d.qkv, d.narrow, scratch_);
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
