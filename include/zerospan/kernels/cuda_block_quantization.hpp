/// @file
/// Block quantization on a CUDA device.
#pragma once

#include <cstddef>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/detail/cuda_summed_inputs.hpp>

#if !defined(ZEROSPAN_COMPILED_CUDA)  // set by the target zerospan::compiled_cuda, which has the kernels
#include <zerospan/kernels/detail/cuda_quantization_kernels.hpp>
#endif

namespace zerospan::inline v0 {

namespace detail {

template <class Stream>
void launch_encoding(const Stream& stream, ElementType element, const std::byte* from, QuantizedType type,
                     std::byte* to, std::size_t elements);

template <class Stream>
void launch_block_sum(const Stream& stream, std::span<const std::byte* const> inputs, QuantizedType type,
                      ElementType element, std::byte* to, std::size_t elements);

}  // namespace detail

/// The bits of `encode_blocks` on the CPU; every operand is in device memory or pinned memory.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void encode_blocks(const CudaStream& stream, ElementType element, const std::byte* from, QuantizedType type,
                          std::byte* to, std::size_t elements) {
  detail::launch_encoding(stream, element, from, type, to, elements);
}

/// The bits of `sum_blocks` on the CPU (of a NaN, that it is one), of at most 256 inputs; otherwise as `encode_blocks`.
/// @note The span may go before it is done. @throws ConfigurationError of more inputs; CudaError
inline void sum_blocks(const CudaStream& stream, std::span<const std::byte* const> inputs, QuantizedType type,
                       ElementType element, std::byte* to, std::size_t elements) {
  detail::check_summed_inputs(inputs.size());
  detail::launch_block_sum(stream, inputs, type, element, to, elements);
}

}  // namespace zerospan::inline v0
