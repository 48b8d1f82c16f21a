/// @file
/// The sum in rank order on a CUDA device.
#pragma once

#include <cstddef>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/detail/cuda_summed_inputs.hpp>

#if !defined(ZEROSPAN_COMPILED_CUDA)  // set by the target zerospan::compiled_cuda, which has the kernels
#include <zerospan/kernels/detail/cuda_rank_order_sum_kernels.hpp>
#endif

namespace zerospan::inline v0 {

namespace detail {

template <class Stream>
void launch_rank_order_sum(const Stream& stream, std::span<const std::byte* const> inputs, ElementType input_type,
                           std::byte* output, ElementType output_type, std::size_t elements);

}  // namespace detail

/// The bits of `rank_order_sum` on the CPU (of a NaN, that it is one), and its conditions, but for these: every operand
/// is in device memory or pinned memory, and aligned to its type; the inputs are at most 256.
/// @note Enqueued; the span may go before it is done. @throws ConfigurationError of more inputs; CudaError if it cannot
/// be enqueued.
inline void rank_order_sum(const CudaStream& stream, std::span<const std::byte* const> inputs, ElementType input_type,
                           std::byte* output, ElementType output_type, std::size_t elements) {
  detail::check_summed_inputs(inputs.size());
  if (inputs.size() == 1 && input_type == output_type) {
    return copy_bytes(stream, output, inputs[0], elements * element_bytes(input_type));
  }
  detail::launch_rank_order_sum(stream, inputs, input_type, output, output_type, elements);
}

}  // namespace zerospan::inline v0
