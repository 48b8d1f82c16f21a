/// @file
/// GPT-2 over bytes: forward and backward. Each weight is gathered for its use by the micro-batches that go through the
/// model together, and released after it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>

#include "activations.hpp"
#include "batch.hpp"
#include "dimensions.hpp"
#include "factor.hpp"
#include "linear.hpp"
#include "math.hpp"
#include "micro_batch.hpp"
#include "parameters.hpp"
#include "row_statistics.hpp"
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
    forward(std::array{Micro{math_.stage({tokens, tokens, tokens.size()}), &a}}, nullptr);
    return math_.on_host(a.logits.row_range(tokens.size() - 1, 1));
  }

  /// @return The sum of the tokens' losses, in nats, for which it waits.
  /// @param checkpoints Take what enters each segment; nullptr: nothing.
  double loss(const Batch& batch, Activations<M>& a, Checkpoints* checkpoints = nullptr) {
    const std::array one{Micro{math_.stage(batch), &a}};
    forward(one, checkpoints);
    math_.cross_entropy_forward(a.logits, one[0].batch.targets, 1);
    return take_loss();
  }

  /// Commits the gradient of the mean loss of the batch's tokens, times `loss_scale`, parameter by parameter, last
  /// layer first. The mean loss is for `take_loss`.
  /// @param a A segment of all blocks, where there are no checkpoints.
  /// @param checkpoints Where what enters each segment rests; the segment is recomputed from it.
  void train(const Batch& batch, Activations<M>& a, ActivationGradients<M>& d, float loss_scale = 1,
             Checkpoints* checkpoints = nullptr) {
    train(std::array{Micro{math_.stage(batch), &a, &d}}, loss_scale, checkpoints);
  }

  /// The same for several micro-batches, layer by layer: each weight is gathered for all of them at once, and has its
  /// gradients committed in their order. To the bit what it is to train on one after the other.
  void train(std::span<const MicroBatch<M>> all, float loss_scale = 1, Checkpoints* checkpoints = nullptr) {
    forward(all, checkpoints);
    for (const Micro& m : all) {
      math_.cross_entropy_forward(m.a->logits, m.batch.targets, static_cast<double>(m.batch.tokens.size()));
      m.d->arrange(m.shape(dimensions_.heads));
    }
    backward_head(all, loss_scale);
    const std::size_t segment = all.front().a->segment();
    for (std::size_t end = dimensions_.layers; end > 0; end = (end - 1) / segment * segment) {
      backward_segment(end, all, checkpoints);
    }
    backward_embedding(all);
  }

  /// The sum of the mean losses of the batches trained on since the last call, in nats, for which it waits.
  double take_loss() { return math_.take_loss(); }

 private:
  using Micro = MicroBatch<M>;
  using MicroBatches = std::span<const Micro>;

  /// What `f` makes of each micro-batch.
  template <class F>
  static auto each(MicroBatches all, F f) {
    std::vector<decltype(f(all.front()))> results;
    results.reserve(all.size());
    for (const Micro& m : all) results.push_back(f(m));
    return results;
  }

  void forward(MicroBatches all, Checkpoints* checkpoints) {
    for (const Micro& m : all) m.a->arrange(m.shape(dimensions_.heads));
    forward_embedding(all);
    for (std::size_t layer = 0; layer < dimensions_.layers; ++layer) {
      if (checkpoints && layer % all.front().a->segment() == 0) push(*checkpoints, layer, all);
      forward_block(layer, all);
    }
    forward_head(all);
  }

  void forward_embedding(MicroBatches all) {
    const auto leases = gather(math_.stream(), parameters_.token, parameters_.position);
    const auto [token, position] = math_.operands(leases);
    for (const Micro& m : all) {
      math_.embedding_forward(m.batch.tokens, m.batch.length, token, position, m.a->embedded);
    }
  }

  void forward_block(std::size_t layer, MicroBatches all) {
    forward_attention(layer, all);
    forward_mlp(layer, all);
  }

  void forward_attention(std::size_t layer, MicroBatches all) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    forward_norm(block.norm1, each(all, [layer](const Micro& m) {
                   const BlockActivations<M>& b = m.a->block(layer);
                   return NormForward{m.a->stream(layer), b.normed1, b.norm1};
                 }));
    block.qkv.forward(math_, each(all, [layer](const Micro& m) {
                        const BlockActivations<M>& b = m.a->block(layer);
                        return LinearForward<S, S>{b.normed1, b.qkv};
                      }));
    for (const Micro& m : all) {
      const BlockActivations<M>& b = m.a->block(layer);
      math_.attention_forward(b.qkv, m.shape(dimensions_.heads), b.weights, b.attended);
    }
    block.projection.forward(math_, each(all, [layer](const Micro& m) {
                               const BlockActivations<M>& b = m.a->block(layer);
                               return LinearForward<S, R>{b.attended, b.middle, m.a->stream(layer)};
                             }));
  }

  void forward_mlp(std::size_t layer, MicroBatches all) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    forward_norm(block.norm2, each(all, [layer](const Micro& m) {
                   const BlockActivations<M>& b = m.a->block(layer);
                   return NormForward{b.middle, b.normed2, b.norm2};
                 }));
    block.up.forward(math_, each(all, [layer](const Micro& m) {
                       const BlockActivations<M>& b = m.a->block(layer);
                       return LinearForward<S, S>{b.normed2, b.up};
                     }));
    for (const Micro& m : all) math_.gelu_forward(m.a->block(layer).up, m.a->block(layer).activated);
    block.down.forward(math_, each(all, [layer](const Micro& m) {
                         const BlockActivations<M>& b = m.a->block(layer);
                         return LinearForward<S, R>{b.activated, b.output, b.middle};
                       }));
  }

  void forward_head(MicroBatches all) {
    forward_norm(parameters_.norm, each(all, [this](const Micro& m) {
                   return NormForward{m.a->stream(dimensions_.layers), m.a->normed, m.a->norm};
                 }));
    const auto head = parameters_.head.gather(math_.stream());
    const auto weight = math_.operand(*head);
    for (const Micro& m : all) {
      math_.multiply(m.a->normed, transposed(weight), m.a->logits, Assignment::replace);
    }
  }

  /// One micro-batch in a normalization's forward pass.
  struct NormForward {
    Tensor<const R> x;
    Tensor<S> y;
    RowStatistics<typename M::Statistic> statistics;
  };

  void forward_norm(const Norm<Parameter>& norm, const std::vector<NormForward>& all) {
    const auto leases = gather(math_.stream(), norm.weight, norm.bias);
    const auto [weight, bias] = math_.operands(leases);
    for (const NormForward& m : all) math_.layer_norm_forward(m.x, weight, bias, m.y, m.statistics);
  }

  void backward_head(MicroBatches all, float loss_scale) {
    const auto dlogits = each(
        all, [&](const Micro& m) { return math_.cross_entropy_backward(m.batch.targets, m.a->logits, loss_scale); });
    for (std::size_t i = 0; i < all.size(); ++i) {
      auto gradient = parameters_.head.gradient(math_.stream());
      math_.write_product(*gradient, transposed(dlogits[i]), all[i].a->normed);
      gradient.commit();
    }
    {
      const auto head = parameters_.head.gather(math_.stream());
      const auto weight = math_.operand(*head);
      for (std::size_t i = 0; i < all.size(); ++i) {
        math_.multiply(dlogits[i], weight, all[i].d->narrow, Assignment::replace);
      }
    }
    for (const Micro& m : all) math_.clear(m.d->stream);
    backward_norm(parameters_.norm, all, [this](const Micro& m) {
      return NormBackward{m.a->stream(dimensions_.layers), m.a->norm};
    });
  }

  /// The blocks from the last checkpoint up to `end`. The activations of the model's last segment are still there.
  void backward_segment(std::size_t end, MicroBatches all, Checkpoints* checkpoints) {
    const std::size_t first = (end - 1) / all.front().a->segment() * all.front().a->segment();
    if (checkpoints) {
      pop(*checkpoints, first, all);
      for (std::size_t layer = first; layer < end && end < dimensions_.layers; ++layer) forward_block(layer, all);
    }
    for (std::size_t layer = end; layer-- > first;) backward_block(layer, all);
  }

  /// The last micro-batch first, so that the first is popped first.
  void push(Checkpoints& checkpoints, std::size_t layer, MicroBatches all) {
    if constexpr (has_checkpoints) {
      for (std::size_t i = all.size(); i-- > 0;) {
        const Tensor<const R> x = all[i].a->stream(layer);
        auto saved = checkpoints.push<Tensor<R>>(math_.stream(), {x.rows, x.columns});
        math_.copy(x, *saved);
        saved.commit();
      }
    }
  }

  /// What has entered `layer` is in the memory of the embedded tokens then, which nobody needs any more.
  void pop(Checkpoints& checkpoints, std::size_t layer, MicroBatches all) {
    if constexpr (has_checkpoints) {
      for (const Micro& m : all) {
        const auto saved = checkpoints.pop<Tensor<R>>(math_.stream());
        math_.copy(*saved, m.a->embedded);
        m.a->resume(layer, m.a->embedded);
      }
    }
  }

  void backward_block(std::size_t layer, MicroBatches all) {
    backward_mlp(layer, all);
    backward_attention(layer, all);
  }

  void backward_mlp(std::size_t layer, MicroBatches all) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    block.down.backward(
        math_, each(all, [this, layer](const Micro& m) {
          return LinearBackward<S>{m.a->block(layer).activated, math_.values(m.d->stream, m.d->values), m.d->wide};
        }));
    for (const Micro& m : all) math_.gelu_backward(m.a->block(layer).up, m.d->wide);
    block.up.backward(math_, each(all, [layer](const Micro& m) {
                        return LinearBackward<S>{m.a->block(layer).normed2, m.d->wide, m.d->narrow};
                      }));
    backward_norm(block.norm2, all, [layer](const Micro& m) {
      return NormBackward{m.a->block(layer).middle, m.a->block(layer).norm2};
    });
  }

  void backward_attention(std::size_t layer, MicroBatches all) {
    const Block<Parameter>& block = parameters_.blocks[layer];
    block.projection.backward(
        math_, each(all, [this, layer](const Micro& m) {
          return LinearBackward<S>{m.a->block(layer).attended, math_.values(m.d->stream, m.d->values), m.d->narrow};
        }));
    for (const Micro& m : all) {
      const BlockActivations<M>& b = m.a->block(layer);
      math_.attention_backward(b.qkv, b.weights, m.d->narrow, m.shape(dimensions_.heads), m.d->weights, m.d->qkv);
    }
    block.qkv.backward(math_, each(all, [layer](const Micro& m) {
                         return LinearBackward<S>{m.a->block(layer).normed1, m.d->qkv, m.d->narrow};
                       }));
    backward_norm(block.norm1, all, [layer](const Micro& m) {
      return NormBackward{m.a->stream(layer), m.a->block(layer).norm1};
    });
  }

  void backward_embedding(MicroBatches all) {
    for (const Micro& m : all) {
      commit(parameters_.position,
             [&](Tensor<S> gradient) { math_.embedding_backward_position(m.batch.length, m.d->stream, gradient); });
    }
    for (const Micro& m : all) {
      commit(parameters_.token,
             [&](Tensor<S> gradient) { math_.embedding_backward_token(m.batch.tokens, m.d->stream, gradient); });
    }
  }

  /// Leases a parameter's gradient, has `write` fill all of it, and hands it over.
  template <class Write>
  void commit(const Parameter& parameter, Write write) {
    auto gradient = parameter.gradient(math_.stream());
    math_.write(*gradient, write);
    gradient.commit();
  }

  /// One micro-batch in a normalization's backward pass, beside the gradients.
  struct NormBackward {
    Tensor<const R> x;
    RowStatistics<typename M::Statistic> statistics;
  };

  /// Takes `d.narrow`, the gradient of the normalization's output, on to `d.stream`.
  /// @param of Makes a NormBackward of each micro-batch.
  template <class Of>
  void backward_norm(const Norm<Parameter>& norm, MicroBatches all, Of of) {
    for (const Micro& m : all) {
      commit(norm.bias, [&](Tensor<S> gradient) { math_.layer_norm_backward_bias(m.d->narrow, gradient); });
    }
    for (const Micro& m : all) {
      const NormBackward n = of(m);
      commit(norm.weight,
             [&](Tensor<S> gradient) { math_.layer_norm_backward_weight(n.x, m.d->narrow, n.statistics, gradient); });
    }
    const auto leases = gather(math_.stream(), norm.weight);
    const auto [weight] = math_.operands(leases);
    for (const Micro& m : all) {
      const NormBackward n = of(m);
      math_.layer_norm_backward_input(n.x, weight, m.d->narrow, n.statistics, m.d->stream);
    }
  }

  M& math_;
  Dimensions dimensions_;
  Parameters<Parameter> parameters_;
};

}  // namespace gpt
