/// @file
/// What the forward pass leaves for the backward pass, in memory that is set aside once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "dimensions.hpp"
#include "row_statistics.hpp"
#include "slab.hpp"
#include "tensor.hpp"

namespace gpt {

/// Of one block, for `n` positions: [n x width], where nothing else is said.
template <class Math>
struct BlockActivations {
  using S = typename Math::Value;
  using R = typename Math::Residual;

  Tensor<S> normed1;
  RowStatistics<typename Math::Statistic> norm1;
  Tensor<S> qkv;      // [n x 3 width]
  Tensor<S> weights;  // [sequences heads length x length]
  Tensor<S> attended;
  Tensor<R> middle;  // the residual stream between attention and the multilayer perceptron
  Tensor<S> normed2;
  RowStatistics<typename Math::Statistic> norm2;
  Tensor<S> up;         // [n x 4 width]
  Tensor<S> activated;  // [n x 4 width]
  Tensor<R> output;     // the residual stream after the block
};

/// Memory for up to `sequences` sequences of the full context, arranged anew for each pass. It holds the activations of
/// a number of blocks, a segment: those of block i replace those of block i - segment.
/// @tparam Math Whose types these are, and in whose memory.
template <class Math>
class Activations {
 public:
  using S = typename Math::Value;
  using R = typename Math::Residual;
  using Statistics = RowStatistics<typename Math::Statistic>;

  /// @param segment Every block of the model, where a backward pass is to follow without recomputation.
  Activations(Math& math, const Dimensions& dimensions, std::size_t sequences, std::size_t segment)
      : Activations{dimensions, sequences, segment, math.allocate(bytes(dimensions, sequences, segment))} {}

  /// In memory of `bytes(dimensions, sequences, segment)` bytes, which others may use in between passes.
  Activations(const Dimensions& dimensions, std::size_t sequences, std::size_t segment,
              std::shared_ptr<std::byte> memory)
      : dimensions_{dimensions},
        capacity_{sequences},
        blocks_(std::min(segment, dimensions.layers)),
        memory_{std::move(memory)} {}

  static std::size_t bytes(const Dimensions& dimensions, std::size_t sequences, std::size_t segment) {
    Activations sized{dimensions, sequences, segment, nullptr};
    return sized.deal(Slab{}, {sequences, dimensions.context, dimensions.heads});
  }

  /// How many sequences of the full context fit.
  std::size_t capacity() const { return capacity_; }

  void arrange(AttentionShape shape) { deal(Slab{memory_.get()}, shape); }

  const BlockActivations<Math>& block(std::size_t layer) const { return blocks_[layer % blocks_.size()]; }

  std::size_t segment() const { return blocks_.size(); }

  /// The residual stream as it enters a block; past the last block, the final normalization. [n x width]
  Tensor<const R> stream(std::size_t layer) const {
    if (resumed_.data && layer == resumed_layer_) return resumed_;
    return layer == 0 ? embedded : block(layer - 1).output;
  }

  /// From now on `stream` is what enters `layer`, the first of a segment.
  void resume(std::size_t layer, Tensor<const R> stream) {
    resumed_layer_ = layer;
    resumed_ = stream;
  }

  Tensor<R> embedded;                   // [n x width]
  Tensor<S> normed;                     // [n x width]: after the final normalization
  Statistics norm;                      // of the final normalization
  Tensor<typename Math::Logit> logits;  // [n x vocabulary]; after the loss probabilities, after that their gradient

 private:
  /// @return The bytes that it takes.
  std::size_t deal(Slab slab, AttentionShape shape) {
    const std::size_t n = shape.positions();
    const std::size_t width = dimensions_.width;
    resumed_ = {};
    embedded = slab.deal<R>(n, width);
    for (BlockActivations<Math>& block : blocks_) {
      block = {.normed1 = slab.deal<S>(n, width),
               .norm1 = deal_statistics(slab, n),
               .qkv = slab.deal<S>(n, 3 * width),
               .weights = slab.deal<S>(n * shape.heads, shape.length),
               .attended = slab.deal<S>(n, width),
               .middle = slab.deal<R>(n, width),
               .normed2 = slab.deal<S>(n, width),
               .norm2 = deal_statistics(slab, n),
               .up = slab.deal<S>(n, 4 * width),
               .activated = slab.deal<S>(n, 4 * width),
               .output = slab.deal<R>(n, width)};
    }
    normed = slab.deal<S>(n, width);
    norm = deal_statistics(slab, n);
    logits = slab.deal<typename Math::Logit>(n, Dimensions::vocabulary);
    return slab.used();
  }

  static Statistics deal_statistics(Slab& slab, std::size_t n) {
    return {slab.deal<typename Math::Statistic>(1, n), slab.deal<typename Math::Statistic>(1, n)};
  }

  Dimensions dimensions_;
  std::size_t capacity_;
  std::vector<BlockActivations<Math>> blocks_;
  std::size_t resumed_layer_ = 0;
  Tensor<const R> resumed_;
  std::shared_ptr<std::byte> memory_;
};

/// Gradients of activations, for the backward pass of one block at a time.
template <class Math>
class ActivationGradients {
 public:
  using S = typename Math::Value;
  using R = typename Math::Residual;

  ActivationGradients(Math& math, const Dimensions& dimensions, std::size_t sequences) : width_{dimensions.width} {
    const AttentionShape largest{sequences, dimensions.context, dimensions.heads};
    memory_ = math.allocate(deal(Slab{}, largest));
  }

  void arrange(AttentionShape shape) { deal(Slab{memory_.get()}, shape); }

  Tensor<R> stream;   // [n x width]: of the residual stream
  Tensor<S> values;   // [n x width]: room for the residual stream's as values, where those are of another type
  Tensor<S> narrow;   // [n x width]: of a linear layer's input
  Tensor<S> wide;     // [n x 4 width]: inside the multilayer perceptron
  Tensor<S> qkv;      // [n x 3 width], in the memory of `wide`
  Tensor<S> weights;  // [rows x length]: of as many heads as the mathematics wants at once

 private:
  /// @return The bytes that it takes.
  std::size_t deal(Slab slab, AttentionShape shape) {
    const std::size_t n = shape.positions();
    stream = slab.deal<R>(n, width_);
    values = slab.deal<S>(std::is_same_v<R, S> ? 0 : n, width_);
    narrow = slab.deal<S>(n, width_);
    wide = slab.deal<S>(n, 4 * width_);
    qkv = {wide.data, n, 3 * width_};
    weights = slab.deal<S>(Math::attention_heads_at_once(shape) * shape.length, shape.length);
    return slab.used();
  }

  std::size_t width_;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace gpt
