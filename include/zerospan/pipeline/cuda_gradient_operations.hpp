/// @file
/// A gradient joins its accumulator on a CUDA device: one pass over memory, with the norm. For nvcc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/exact_sum.hpp>
#include <zerospan/device/cuda_launch.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/pipeline/cuda_gradient_pair.hpp>
#include <zerospan/pipeline/gradient_operations.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Blocks are small, so that a short gradient is spread over many multiprocessors.
inline constexpr std::size_t addition_threads = 128;
inline constexpr std::size_t addition_residency = 8;
inline constexpr std::size_t addition_warps = addition_threads / WarpChunk::threads;

/// Adds the digits of `term` to `digits`, which other threads add to as well.
__device__ inline void add_digits(unsigned long long* digits, double term) {
  const ExactSum::Parts parts = ExactSum::parts(term);
  for (std::size_t i = 0; i < parts.values.size(); ++i) {
    if (i < parts.count && parts.values[i] != 0) {
      atomicAdd(digits + parts.first + i, static_cast<unsigned long long>(parts.values[i]));
    }
  }
}

/// Treats pair number `pair` of blocks, by a warp. @return In the first thread of each half of the warp, the sum of the
/// squares of that half's block.
template <class Pair, std::size_t Width>
__device__ double add_pair(const Pair& pair, WarpChunk& chunk, std::size_t thread) {
  double sum = 0;
  auto loaded = pair.template load<Width>(0, thread);
  for (std::size_t c = 0; c < WarpChunk::count; ++c) {
    pair.template finish<Width>(c, thread, loaded, chunk);
    if (c + 1 < WarpChunk::count) loaded = pair.template load<Width>(c + 1, thread);
    if (pair.has_norm()) {
      __syncwarp();
      chunk.add_to(sum, thread);
      __syncwarp();
    }
  }
  for (unsigned width = WarpChunk::lanes / 2; width > 0; width /= 2) {
    sum += __shfl_down_sync(0xffffffffU, sum, width, WarpChunk::lanes);
  }
  return sum;
}

/// Each warp takes pairs of blocks. Norms are gathered in the block's own digits before they reach `what.digits`.
template <ElementType Type, ElementType Source, Addition Kind>
__global__ void __launch_bounds__(addition_threads, addition_residency)
    add_gradient_pairs(const __grid_constant__ GradientAddition what, const bool is_aligned) {
  using Pair = GradientPair<Type, Source, Kind>;
  __shared__ std::array<WarpChunk, addition_warps> chunks;
  __shared__ std::array<unsigned long long, ExactSum::digit_count> digits;
  for (std::size_t k = threadIdx.x; k < digits.size(); k += addition_threads) digits[k] = 0;
  __syncthreads();

  const std::size_t thread = threadIdx.x % WarpChunk::threads;
  const std::size_t warp = threadIdx.x / WarpChunk::threads;
  WarpChunk& chunk = chunks[warp];
  for (std::size_t first = (blockIdx.x * addition_warps + warp) * WarpChunk::pair_elements; first < what.elements;
       first += gridDim.x * addition_warps * WarpChunk::pair_elements) {
    const Pair pair{what, first};
    const double sum = is_aligned && pair.is_whole() ? add_pair<Pair, Pair::width>(pair, chunk, thread)
                                                     : add_pair<Pair, 1>(pair, chunk, thread);
    if (thread % WarpChunk::lanes == 0) add_digits(digits.data(), sum);
  }

  __syncthreads();
  auto* const all = reinterpret_cast<unsigned long long*>(what.digits);
  for (std::size_t k = threadIdx.x; k < digits.size(); k += addition_threads) {
    if (digits[k] != 0) atomicAdd(all + k, digits[k]);
  }
}

template <ElementType Type, ElementType Source, Addition Kind>
void add_gradient(const CudaStream& stream, const GradientAddition& what) {
  using Pair = GradientPair<Type, Source, Kind>;
  constexpr std::size_t per_block = addition_warps * WarpChunk::pair_elements;
  launch(stream, "the addition of a gradient",
         {.work = (what.elements + per_block - 1) / per_block,
          .threads = addition_threads,
          .residency = addition_residency},
         &add_gradient_pairs<Type, Source, Kind>, what, Pair::is_aligned(what));
}

template <ElementType Type, ElementType Source>
void add_gradient(const CudaStream& stream, const GradientAddition& what) {
  if (what.addition == Addition::add) return add_gradient<Type, Source, Addition::add>(stream, what);
  if (Type == Source && what.norm_begin >= what.norm_end) {
    return copy_bytes(stream, what.target, what.source, what.elements * element_bytes(Type));
  }
  add_gradient<Type, Source, Addition::replace>(stream, what);
}

}  // namespace detail

/// The bits of `add_gradient` on the CPU: of the accumulator (of a NaN that was added, that it is one), and of the norm
/// that the digits amount to; the digits themselves are not carried. Every operand, and the digits, are in device memory
/// or pinned memory, and aligned to their types.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void add_gradient(const CudaStream& stream, const GradientAddition& what) {
  detail::dispatch_element_type(what.source_type, [&](auto source) {
    if (what.type == ElementType::float32) {
      detail::add_gradient<ElementType::float32, source.value>(stream, what);
    } else {
      detail::add_gradient<source.value, source.value>(stream, what);
    }
  });
}

}  // namespace zerospan::inline v0
