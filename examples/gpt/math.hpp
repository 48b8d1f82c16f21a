/// @file
/// The concept Math: all that differs between a model on the CPU and one on a GPU.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <zerospan/core/stream.hpp>

#include "batch.hpp"
#include "dimensions.hpp"
#include "factor.hpp"
#include "row_statistics.hpp"
#include "tensor.hpp"

namespace gpt {

/// Memory for activations, and arithmetic on them, in order, on one stream.
///
/// @concept
/// - `M::Weight` is the element type of the parameters; `M::Value` that of activations, their gradients, and weights in
///   use; `M::Residual` that of the residual stream and its gradient; `M::Statistic`, `M::Logit` those of their names;
/// - `math.stream()` is where everything is enqueued, and leases are taken;
/// - `math.allocate(bytes)` is memory for tensors, aligned to `Slab::alignment`; `math.allocated()` is the sum so far;
/// - `math.stage(batch)` is the batch where the other members can read it, until the next call;
/// - `math.operand(weight)` is a leased tensor as a factor of products, `math.operands(leases)` are the values of a
/// group
///   of leases: to be read until the next use of either, or of the two that write;
/// - `math.write(gradient, write)` has `write` fill a tensor of values, which becomes the leased gradient;
/// - `math.write_product(gradient, a, b)` has a b become the leased gradient;
/// - `math.multiply(a, b, c, assignment)` is c = a b, or c += a b, where b is of values or an operand;
/// - `math.sum_into(y, residual)` begins y = residual + b + x W^T: `set_bias(b)` first, `add_product(tile, x, w)` for
///   each tile, `finish()`. Without a residual its data is nullptr;
/// - `math.values(gradient, room)` is a gradient of the residual stream as values, in the room if types differ;
/// - `math.attention_heads_at_once(shape)` is how many [length x length] matrices `attention_backward` has as scratch;
/// - `math.cross_entropy_forward(logits, targets, divisor)` adds the sum of the rows' losses, divided, to the loss;
/// - `math.cross_entropy_backward(targets, probabilities, loss_scale)` is the gradient, in the memory of the logits;
/// - `math.take_loss()` waits, and returns the loss since the last call;
/// - `math.on_host(row)` waits, and returns a row of logits, valid until the next call.
///
/// The other members are those of the layers' headers: the functions of the same names.
template <class M>
concept Math = requires(M& math, const Batch& batch, Tensor<typename M::Weight> weight, Tensor<typename M::Value> value,
                        Tensor<const typename M::Value> read, Tensor<typename M::Residual> residual,
                        RowStatistics<typename M::Statistic> statistics, Tensor<typename M::Logit> logits,
                        std::span<const std::uint8_t> tokens, std::size_t size, AttentionShape shape, double divisor,
                        float scale) {
  { math.stream() } -> std::same_as<zerospan::StreamRef>;
  { math.allocate(size) } -> std::same_as<std::shared_ptr<std::byte>>;
  { math.allocated() } -> std::same_as<std::size_t>;
  { math.stage(batch) } -> std::same_as<Batch>;
  math.multiply(read, math.operand(weight), value, Assignment::add);
  math.multiply(read, transposed(read), value, Assignment::add);
  math.write_product(weight, transposed(read), read);
  math.sum_into(value, read).set_bias(weight);
  math.sum_into(residual, residual).finish();
  math.sum_of_rows(read, value);
  { math.values(residual, value) } -> std::same_as<Tensor<const typename M::Value>>;
  math.copy(residual, residual);
  math.clear(residual);
  math.embedding_forward(tokens, size, read, read, residual);
  math.embedding_backward_token(tokens, residual, value);
  math.embedding_backward_position(size, residual, value);
  math.layer_norm_forward(residual, read, read, value, statistics);
  math.layer_norm_backward_bias(read, value);
  math.layer_norm_backward_weight(residual, read, statistics, value);
  math.layer_norm_backward_input(residual, read, read, statistics, residual);
  math.gelu_forward(read, value);
  math.gelu_backward(read, value);
  { M::attention_heads_at_once(shape) } -> std::same_as<std::size_t>;
  math.attention_forward(read, shape, value, value);
  math.attention_backward(read, read, read, shape, value, value);
  math.cross_entropy_forward(logits, tokens, divisor);
  { math.cross_entropy_backward(tokens, logits, scale) } -> std::same_as<Tensor<const typename M::Value>>;
  { math.take_loss() } -> std::same_as<double>;
  { math.on_host(logits) } -> std::same_as<std::span<const typename M::Logit>>;
};

}  // namespace gpt
