/// @file
/// What the forward pass leaves for the backward pass, in memory that is set aside once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "layer_norm.hpp"
#include "tensor.hpp"

namespace gpt {

/// The sizes of a model. The vocabulary is the bytes.
struct Dimensions {
  static constexpr std::size_t vocabulary = 256;

  std::size_t layers;
  std::size_t heads;
  std::size_t width;
  std::size_t context;    ///< The longest sequence.
  std::size_t tiles = 1;  ///< Into which the weight of each linear layer is cut.
};

/// One uninitialized range of scalars, dealt out as tensors.
template <class S>
class Slab {
 public:
  explicit Slab(std::size_t elements) : memory_{std::make_unique_for_overwrite<S[]>(elements)} {}

  Tensor<S> deal(std::size_t rows, std::size_t columns) {
    const Tensor<S> tensor{memory_.get() + used_, rows, columns};
    used_ += tensor.size();
    return tensor;
  }
  void take_back_all() { used_ = 0; }

 private:
  std::unique_ptr<S[]> memory_;
  std::size_t used_ = 0;
};

/// Of one block, for `n` positions: [n x width], where nothing else is said.
template <class S>
struct BlockActivations {
  Tensor<S> normed1;
  RowStatistics<S> norm1;
  Tensor<S> qkv;      // [n x 3 width]
  Tensor<S> weights;  // [sequences heads length x length]
  Tensor<S> attended;
  Tensor<S> middle;  // the residual stream between attention and the multilayer perceptron
  Tensor<S> normed2;
  RowStatistics<S> norm2;
  Tensor<S> up;         // [n x 4 width]
  Tensor<S> activated;  // [n x 4 width]
  Tensor<S> output;     // the residual stream after the block
};

/// Memory for up to `sequences` sequences of the full context, arranged anew for each pass. It holds the activations of
/// a number of blocks, a segment: those of block i replace those of block i - segment.
template <class S>
class Activations {
 public:
  /// @param segment Every block of the model, where a backward pass is to follow without recomputation.
  Activations(const Dimensions& dimensions, std::size_t sequences, std::size_t segment)
      : dimensions_{dimensions},
        capacity_{sequences},
        blocks_(std::min(segment, dimensions.layers)),
        slab_{sequences * dimensions.context *
              (blocks_.size() * (16 * dimensions.width + dimensions.heads * dimensions.context + 4) +
               2 * dimensions.width + 2 + Dimensions::vocabulary)} {}

  /// How many sequences of the full context fit.
  std::size_t capacity() const { return capacity_; }

  void arrange(AttentionShape shape) {
    const std::size_t n = shape.sequences * shape.length;
    const std::size_t width = dimensions_.width;
    slab_.take_back_all();
    resumed_ = {};
    embedded = slab_.deal(n, width);
    for (BlockActivations<S>& block : blocks_) {
      block = {.normed1 = slab_.deal(n, width),
               .norm1 = deal_statistics(n),
               .qkv = slab_.deal(n, 3 * width),
               .weights = slab_.deal(n * shape.heads, shape.length),
               .attended = slab_.deal(n, width),
               .middle = slab_.deal(n, width),
               .normed2 = slab_.deal(n, width),
               .norm2 = deal_statistics(n),
               .up = slab_.deal(n, 4 * width),
               .activated = slab_.deal(n, 4 * width),
               .output = slab_.deal(n, width)};
    }
    normed = slab_.deal(n, width);
    norm = deal_statistics(n);
    logits = slab_.deal(n, Dimensions::vocabulary);
  }

  const BlockActivations<S>& block(std::size_t layer) const { return blocks_[layer % blocks_.size()]; }

  std::size_t segment() const { return blocks_.size(); }

  /// The residual stream as it enters a block; past the last block, the final normalization. [n x width]
  Tensor<const S> stream(std::size_t layer) const {
    if (resumed_.data && layer == resumed_layer_) return resumed_;
    return layer == 0 ? embedded : block(layer - 1).output;
  }

  /// From now on `stream` is what enters `layer`, the first of a segment.
  void resume(std::size_t layer, Tensor<const S> stream) {
    resumed_layer_ = layer;
    resumed_ = stream;
  }

  Tensor<S> embedded;     // [n x width]
  Tensor<S> normed;       // [n x width]: after the final normalization
  RowStatistics<S> norm;  // of the final normalization
  Tensor<S> logits;       // [n x vocabulary]; after the loss probabilities, after that their gradient

 private:
  RowStatistics<S> deal_statistics(std::size_t n) { return {slab_.deal(1, n), slab_.deal(1, n)}; }

  Dimensions dimensions_;
  std::size_t capacity_;
  std::vector<BlockActivations<S>> blocks_;
  std::size_t resumed_layer_ = 0;
  Tensor<const S> resumed_;
  Slab<S> slab_;
};

/// Gradients of activations, for the backward pass of one block at a time.
template <class S>
class ActivationGradients {
 public:
  ActivationGradients(const Dimensions& dimensions, std::size_t sequences)
      : width_{dimensions.width}, slab_{dimensions.context * (sequences * 6 * dimensions.width + dimensions.context)} {}

  void arrange(AttentionShape shape) {
    const std::size_t n = shape.sequences * shape.length;
    slab_.take_back_all();
    stream = slab_.deal(n, width_);
    narrow = slab_.deal(n, width_);
    wide = slab_.deal(n, 4 * width_);
    qkv = {wide.data, n, 3 * width_};
    weights = slab_.deal(shape.length, shape.length);
  }

  Tensor<S> stream;   // [n x width]: of the residual stream
  Tensor<S> narrow;   // [n x width]: of a linear layer's input
  Tensor<S> wide;     // [n x 4 width]: inside the multilayer perceptron
  Tensor<S> qkv;      // [n x 3 width], in the memory of `wide`
  Tensor<S> weights;  // [length x length]: of one head

 private:
  std::size_t width_;
  Slab<S> slab_;
};

}  // namespace gpt
