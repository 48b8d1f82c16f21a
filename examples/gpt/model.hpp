/// @file
/// GPT-2 over bytes: forward and backward, with each weight gathered for its use and released after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include <zerospan/activation/activation_checkpoints.hpp>

#include "activations.hpp"
#include "batch.hpp"
#include "dimensions.hpp"
#include "factor.hpp"
#include "math.hpp"
#include "parameters.hpp"
#include "tensor.hpp"
#include "zerospan_adapter.hpp"

namespace gpt {

/// @tparam Parameter zerospan::PartitionedParameter of a Tensor, or a type with the same leases.
/// @tparam M Computes, on a stream, with what the leases give.
template <class Parameter, Math M>
class Model {
 public:
  using S = typename M::Value;
  using R = typename M::Residual;
  using Checkpoints = zerospan::ActivationCheckpoints;

  /// Whether the residual stream is of a type that checkpoints take.
  static constexpr bool has_checkpoints = zerospan::HostTensor<Tensor<R>>;

  /// Declares the parameters in `engine`, which outlives the model's use, as `math` does.
  /// @param declared Where given, called before each block is declared, with the number of those that are, and after
  /// all.
  template <class Engine>
  Model(Engine& engine, M& math, const Dimensions& dimensions, const std::function<void(std::size_t)>& declared = {})
      : math_{math}, dimensions_{dimensions}, parameters_{engine, dimensions, declared} {}

  const Dimensions& dimensions() const { return dimensions_; }

  /// Fills `a.logits`, a row for each token, and returns those of the last token, on the host: it waits.
  std::span<const typename M::Logit> predict(std::span<const std::uint8_t> tokens, Activations<M>& a) {
    forward(math_.stage({tokens, tokens, tokens.size()}), a, nullptr);
    return math_.on_host(a.logits.row_range(tokens.size() - 1, 1));
  }

  /// @return The sum of the tokens' losses, in nats, for which it waits.
  /// @param checkpoints Take what enters each segment; nullptr: nothing.
  double loss(const Batch& batch, Activations<M>& a, Checkpoints* checkpoints = nullptr) {
    forward_loss(math_.stage(batch), a, 1, checkpoints);
    return take_loss();
  }

  /// Commits the gradient of the mean loss of the batch's tokens, times `loss_scale`, parameter by parameter, last
  /// layer first. The mean loss is for `take_loss`.
  /// @param a A segment of all blocks, where there are no checkpoints.
  /// @param checkpoints Where what enters each segment rests; the segment is recomputed from it.
  void train(const Batch& batch, Activations<M>& a, ActivationGradients<M>& d, float loss_scale = 1,
             Checkpoints* checkpoints = nullptr) {
    const Batch staged = math_.stage(batch);
    const AttentionShape shape = shape_of(staged);
    forward_loss(staged, a, static_cast<double>(staged.tokens.size()), checkpoints);
    d.arrange(shape);
    backward_head(math_.cross_entropy_backward(staged.targets, a.logits, loss_scale), a, d);
    for (std::size_t end = dimensions_.layers; end > 0; end = (end - 1) / a.segment() * a.segment()) {
      backward_segment(end, shape, a, d, checkpoints);
    }
    backward_embedding(staged, d);
  }

  /// The sum of the mean losses of the batches trained on since the last call, in nats, for which it waits.
  double take_loss() { return math_.take_loss(); }

 private:
  AttentionShape shape_of(const Batch& batch) const {
    return {batch.tokens.size() / batch.length, batch.length, dimensions_.heads};
  }

  void forward_loss(const Batch& batch, Activations<M>& a, double divisor, Checkpoints* checkpoints) {
    forward(batch, a, checkpoints);
    math_.cross_entropy_forward(a.logits, batch.targets, divisor);
  }

  void forward(const Batch& batch, Activations<M>& a, Checkpoints* checkpoints) {
    const AttentionShape shape = shape_of(batch);
    a.arrange(shape);
    forward_embedding(batch, a);
    for (std::size_t layer = 0; layer < dimensions_.layers; ++layer) {
      if (checkpoints && layer % a.segment() == 0) push(*checkpoints, a.stream(layer));
      forward_block(layer, shape, a);
    }
    forward_head(a);
  }

  void forward_embedding(const Batch& batch, Activations<M>& a) {
    const auto leases = gather(math_.stream(), parameters_.token, parameters_.position);
    const auto [token, position] = math_.operands(leases);
    math_.embedding_forward(batch.tokens, batch.length, token, position, a.embedded);
  }

  void forward_block(std::size_t layer, AttentionShape shape, Activations<M>& a) {
    forward_attention(layer, shape, a);
    forward_mlp(layer, a);
  }

  void forward_attention(std::size_t layer, AttentionShape shape, Activations<M>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<M>& b = a.block(layer);
    forward_norm(block.norm1, a.stream(layer), b.normed1, b.norm1);
    block.qkv.forward(math_, b.normed1, b.qkv);
    math_.attention_forward(b.qkv, shape, b.weights, b.attended);
    block.projection.forward(math_, b.attended, b.middle, a.stream(layer));
  }

  void forward_mlp(std::size_t layer, Activations<M>& a) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<M>& b = a.block(layer);
    forward_norm(block.norm2, b.middle, b.normed2, b.norm2);
    block.up.forward(math_, b.normed2, b.up);
    math_.gelu_forward(b.up, b.activated);
    block.down.forward(math_, b.activated, b.output, b.middle);
  }

  void forward_head(Activations<M>& a) {
    forward_norm(parameters_.norm, a.stream(dimensions_.layers), a.normed, a.norm);
    const auto leases = gather(math_.stream(), parameters_.head);
    const auto [weight] = math_.operands(leases);
    math_.multiply(a.normed, transposed(weight), a.logits, Assignment::replace);
  }

  void forward_norm(const Norm<Parameter>& norm, Tensor<const R> x, Tensor<S> y,
                    RowStatistics<typename M::Statistic> statistics) {
    const auto leases = gather(math_.stream(), norm.weight, norm.bias);
    const auto [weight, bias] = math_.operands(leases);
    math_.layer_norm_forward(x, weight, bias, y, statistics);
  }

  void backward_head(Tensor<const S> dlogits, const Activations<M>& a, ActivationGradients<M>& d) {
    commit(parameters_.head,
           [&](Tensor<S> gradient) { math_.multiply(transposed(dlogits), a.normed, gradient, Assignment::replace); });
    {
      const auto leases = gather(math_.stream(), parameters_.head);
      const auto [weight] = math_.operands(leases);
      math_.multiply(dlogits, weight, d.narrow, Assignment::replace);
    }
    math_.clear(d.stream);
    backward_norm(parameters_.norm, a.stream(dimensions_.layers), a.norm, d);
  }

  /// The blocks from the last checkpoint up to `end`. The activations of the model's last segment are still there.
  void backward_segment(std::size_t end, AttentionShape shape, Activations<M>& a, ActivationGradients<M>& d,
                        Checkpoints* checkpoints) {
    const std::size_t first = (end - 1) / a.segment() * a.segment();
    const auto backward = [&] {
      for (std::size_t layer = end; layer-- > first;) backward_block(layer, shape, a, d);
    };
    if (!checkpoints) return backward();
    pop(*checkpoints, [&](Tensor<const R> input) {
      a.resume(first, input);
      for (std::size_t layer = first; layer < end && end < dimensions_.layers; ++layer) forward_block(layer, shape, a);
      backward();
    });
  }

  void push(Checkpoints& checkpoints, Tensor<const R> x) {
    if constexpr (has_checkpoints) {
      auto saved = checkpoints.push<Tensor<R>>(math_.stream(), {x.rows, x.columns});
      math_.copy(x, *saved);
      saved.commit();
    }
  }

  template <class Use>
  void pop(Checkpoints& checkpoints, Use use) {
    if constexpr (has_checkpoints) use(*checkpoints.pop<Tensor<R>>(math_.stream()));
  }

  void backward_block(std::size_t layer, AttentionShape shape, const Activations<M>& a, ActivationGradients<M>& d) {
    backward_mlp(layer, a, d);
    backward_attention(layer, shape, a, d);
  }

  void backward_mlp(std::size_t layer, const Activations<M>& a, ActivationGradients<M>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<M>& b = a.block(layer);
    block.down.backward(math_, b.activated, math_.values(d.stream, d.values), d.wide);
    math_.gelu_backward(b.up, d.wide);
    block.up.backward(math_, b.normed2, d.wide, d.narrow);
    backward_norm(block.norm2, b.middle, b.norm2, d);
  }

  void backward_attention(std::size_t layer, AttentionShape shape, const Activations<M>& a, ActivationGradients<M>& d) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    const BlockActivations<M>& b = a.block(layer);
    block.projection.backward(math_, b.attended, math_.values(d.stream, d.values), d.narrow);
    math_.attention_backward(b.qkv, b.weights, d.narrow, shape, d.weights, d.qkv);
    block.qkv.backward(math_, b.normed1, d.qkv, d.narrow);
    backward_norm(block.norm1, a.stream(layer), b.norm1, d);
  }

  void backward_embedding(const Batch& batch, const ActivationGradients<M>& d) {
    commit(parameters_.position,
           [&](Tensor<S> gradient) { math_.embedding_backward_position(batch.length, d.stream, gradient); });
    commit(parameters_.token,
           [&](Tensor<S> gradient) { math_.embedding_backward_token(batch.tokens, d.stream, gradient); });
  }

  /// Leases a parameter's gradient, has `write` fill all of it, and hands it over.
  template <class Write>
  void commit(const Parameter& parameter, Write write) {
    auto gradient = parameter.gradient(math_.stream());
    math_.write(*gradient, write);
    gradient.commit();
  }

  /// Takes `d.narrow`, the gradient of the normalization's output, on to `d.stream`.
  void backward_norm(const Norm<Parameter>& norm, Tensor<const R> x, RowStatistics<typename M::Statistic> statistics,
                     ActivationGradients<M>& d) {
    commit(norm.bias, [&](Tensor<S> gradient) { math_.layer_norm_backward_bias(d.narrow, gradient); });
    commit(norm.weight,
           [&](Tensor<S> gradient) { math_.layer_norm_backward_weight(x, d.narrow, statistics, gradient); });
    const auto leases = gather(math_.stream(), norm.weight);
    const auto [weight] = math_.operands(leases);
    math_.layer_norm_backward_input(x, weight, d.narrow, statistics, d.stream);
  }

  M& math_;
  Dimensions dimensions_;
  Parameters<Parameter> parameters_;
};

}  // namespace gpt
