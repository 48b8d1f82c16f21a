/// @file
/// The concept StreamKernels: all that the library enqueues on a stream, which is to be written for each type of
/// streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0 {

/// A type of streams that an engine can enqueue on. The functions are found by argument-dependent lookup: they stand in
/// the namespace of the stream type, or in `zerospan` for StreamRef (in these headers) and CudaStream (in the ones
/// named `cuda_...` beside them; `zerospan/cuda.hpp` includes all). The host's take a StreamRef and nothing that
/// converts to one: where a device's is not included, the program does not compile.
///
/// @concept
/// - `copy_bytes(stream, to, from, bytes)` and `fill_zero(stream, to, bytes)`;
/// - `widen(stream, type, from, to, elements)` and `narrow(stream, from, type, to, elements)`: elements to floats, and
///   floats to elements, rounded to nearest even;
/// - `add_gradient(stream, GradientAddition)`: a gradient joins its accumulator.
///
/// Each gives the bits of the host's, and returns when it is enqueued: what it was given by pointer lives on, spans do
/// not. Others need besides:
/// - communicators of threads: `rank_order_sum(stream, inputs, input_type, output, output_type, elements)` (SumsRanks);
/// - QuantizedCommunicator: `encode_blocks` and `sum_blocks` (QuantizesBlocks);
/// - the update of an optimizer on the device: `update(stream, optimizer, runs)` (UpdatesOn, in optimizer.hpp).
template <class S>
concept StreamKernels = requires(S& stream, std::byte* to, const std::byte* from, std::size_t count, ElementType type,
                                 float* floats, const float* values, const GradientAddition& addition) {
  copy_bytes(stream, to, from, count);
  fill_zero(stream, to, count);
  widen(stream, type, from, floats, count);
  narrow(stream, values, type, to, count);
  add_gradient(stream, addition);
};

template <class S>
concept SumsRanks = requires(S& stream, std::span<const std::byte* const> inputs, ElementType type, std::byte* to,
                             std::size_t elements) {
  rank_order_sum(stream, inputs, type, to, type, elements);
};

template <class S>
concept QuantizesBlocks = requires(S& stream, std::span<const std::byte* const> inputs, ElementType element,
                                   QuantizedType type, const std::byte* from, std::byte* to, std::size_t elements) {
  encode_blocks(stream, element, from, type, to, elements);
  sum_blocks(stream, inputs, type, element, to, elements);
};

static_assert(StreamKernels<StreamRef> && SumsRanks<StreamRef> && QuantizesBlocks<StreamRef>);

namespace detail {

/// For a static_assert: true, or an error in words.
template <class D>
consteval bool require_stream_kernels() {
  static_assert(StreamKernels<typename D::lanes_type::stream_type>,
                "zerospan: the kernels of this device's streams are not visible here (StreamKernels): include "
                "zerospan/cuda.hpp where an engine on a GPU is made, or the header of your own runtime's");
  return true;
}

}  // namespace detail

}  // namespace zerospan::inline v0
