/// @file
/// Elements to and from floats on a CUDA device.
#pragma once

#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>

#if !defined(ZEROSPAN_COMPILED_CUDA)  // set by the target zerospan::compiled_cuda, which has the kernels
#include <zerospan/kernels/detail/cuda_convert_kernels.hpp>
#endif

namespace zerospan::inline v0 {

namespace detail {

/// What launches kernels is a template, of CudaStream alone: nvcc instantiates it, here or once for all sources.
template <class Stream>
void launch_widening(const Stream& stream, ElementType type, const std::byte* from, float* to, std::size_t elements);

template <class Stream>
void launch_narrowing(const Stream& stream, const float* from, ElementType type, std::byte* to, std::size_t elements);

}  // namespace detail

/// Widens `elements` elements, exactly: the bits of `to_float`. The ranges do not overlap; each is in device memory or
/// pinned memory, and aligned to its type.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void widen(const CudaStream& stream, ElementType type, const std::byte* from, float* to, std::size_t elements) {
  detail::launch_widening(stream, type, from, to, elements);
}

/// Rounds `elements` floats to `type`: the bits of `from_float`. Otherwise as `widen`.
inline void narrow(const CudaStream& stream, const float* from, ElementType type, std::byte* to, std::size_t elements) {
  detail::launch_narrowing(stream, from, type, to, elements);
}

}  // namespace zerospan::inline v0
