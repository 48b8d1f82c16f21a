/// @file
/// A gradient joins its accumulator on a CUDA device: one pass over memory, with the norm.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

#if !defined(ZEROSPAN_COMPILED_CUDA)  // set by the target zerospan::compiled_cuda, which has the kernels
#include <zerospan/kernels/detail/cuda_gradient_kernels.hpp>
#endif

namespace zerospan::inline v0 {

namespace detail {

template <class Stream>
void launch_addition(const Stream& stream, const GradientAddition& what);

}  // namespace detail

/// The bits of `add_gradient` on the CPU: of the accumulator (of a NaN that was added, that it is one), and of the norm
/// that the limbs amount to; the limbs themselves are not carried. Every operand, and the limbs, are in device
/// memory or pinned memory, and aligned to their types.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void add_gradient(const CudaStream& stream, const GradientAddition& what) {
  const bool has_norm = what.norm_begin < what.norm_end;
  if (what.addition == Addition::replace && what.type == what.source_type && !has_norm) {
    return copy_bytes(stream, what.target, what.source, what.elements * element_bytes(what.type));
  }
  detail::launch_addition(stream, what);
}

}  // namespace zerospan::inline v0
