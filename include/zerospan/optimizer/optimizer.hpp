/// @file
/// The concept Optimizer: how many bytes of states a block has, and one fused update of a shard.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0 {

/// A contiguous run of elements of one parameter within a sub-group, and all that its update reads and writes.
/// A sub-group holds `capacity` master weights and the optimizer's states for as many elements; `first` and
/// `elements` select the run; both are multiples of `block_elements`, except that the last run may end early.
struct ShardUpdate {
  float* master;              ///< The sub-group's master weights, fp32: element i is `master[i]`.
  std::byte* states;          ///< The sub-group's `state_bytes(capacity)` bytes of states.
  std::size_t capacity;       ///< Elements of the sub-group: a multiple of `block_elements`.
  std::size_t first;          ///< The run's first element in the sub-group.
  std::size_t elements;       ///< The run's length.
  const std::byte* gradient;  ///< The run's accumulated gradients: the sum over ranks and micro-batches.
  ElementType gradient_type;
  std::byte* parameter;  ///< Where the run's updated elements are written, rounded to `parameter_type`.
  ElementType parameter_type;
  float gradient_scale;  ///< Multiplies each gradient first: 1 / (world size * micro-batches), and the clipping.
  std::int64_t step;     ///< Updates of this parameter, this one included: 1 at the first.
  ParameterGroup group;
};

/// A partitioned optimizer (ZeRO-1). Element-wise, or block-wise over blocks of `block_elements` logical elements.
///
/// @concept
/// - `optimizer.state_bytes(elements)` is the size of the states of that many elements (a multiple of
///   `block_elements`), the fp32 master weights not counted; states start as zeros;
/// - `optimizer.update(shard)` updates master weights and states in place and writes the new elements, in one pass over
///   memory. It gives the same bits however a parameter is cut into runs;
/// - it is copyable: an update under way keeps the settings it was posted with.
template <class O>
concept Optimizer = std::copyable<O> && requires(const O& optimizer, std::size_t elements, const ShardUpdate& shard) {
  { optimizer.state_bytes(elements) } -> std::same_as<std::size_t>;
  optimizer.update(shard);
};

/// Updates runs of one sub-group on the calling thread. A device's stream type has overloads of its own, which enqueue
/// the update, for the optimizers that the device knows.
template <Optimizer O>
void update(StreamRef&, const O& optimizer, std::span<const ShardUpdate> runs) {
  for (const ShardUpdate& run : runs) optimizer.update(run);
}

/// An optimizer that can be run on streams of a type; the others are run by the host.
template <class O, class Stream>
concept UpdatesOn = Optimizer<O> && requires(Stream& stream, const O& optimizer, std::span<const ShardUpdate> runs) {
  update(stream, optimizer, runs);
};

}  // namespace zerospan::inline v0
