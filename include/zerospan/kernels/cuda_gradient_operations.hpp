/// @file
/// A gradient joins its accumulator on a CUDA device: one pass over memory, with the norm. For nvcc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_gradient_pair.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Blocks are small, so that a short gradient is spread over many multiprocessors.
inline constexpr std::size_t addition_threads = 128;
inline constexpr std::size_t addition_residency = 8;
inline constexpr std::size_t addition_warps = addition_threads / WarpChunk::threads;

/// Adds the digits of `term` to `digits`, which other threads add to as well.
__device__ inline void add_digits(unsigned long long* digits, double term) {
  const detail::ExactSum::Parts parts = detail::ExactSum::parts(term);
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
template <class Pair>
__global__ void __launch_bounds__(addition_threads, addition_residency)
    add_gradient_pairs(const __grid_constant__ GradientAddition what, const Access access) {
  __shared__ std::array<WarpChunk, addition_warps> chunks;
  __shared__ std::array<unsigned long long, detail::ExactSum::digit_count> digits;
  for (std::size_t k = threadIdx.x; k < digits.size(); k += addition_threads) digits[k] = 0;
  __syncthreads();

  const std::size_t thread = threadIdx.x % WarpChunk::threads;
  const std::size_t warp = threadIdx.x / WarpChunk::threads;
  WarpChunk& chunk = chunks[warp];
  for (std::size_t first = (blockIdx.x * addition_warps + warp) * WarpChunk::pair_elements; first < what.elements;
       first += gridDim.x * addition_warps * WarpChunk::pair_elements) {
    const Pair pair{what, first};
    const double sum = access == Access::vector && pair.is_whole() ? add_pair<Pair, Pair::width>(pair, chunk, thread)
                                                                   : add_pair<Pair, 1>(pair, chunk, thread);
    if (thread % WarpChunk::lanes == 0) add_digits(digits.data(), sum);
  }

  __syncthreads();
  auto* const all = reinterpret_cast<unsigned long long*>(what.digits);
  for (std::size_t k = threadIdx.x; k < digits.size(); k += addition_threads) {
    if (digits[k] != 0) atomicAdd(all + k, digits[k]);
  }
}

/// Calls `use` with the `std::type_identity` of the `GradientPair` of an addition.
template <class Use>
void visit_pair(const GradientAddition& what, Use use) {
  const auto visit = [&]<ElementType Type, ElementType Source>(ElementConstant<Type>, ElementConstant<Source>) {
    if (what.addition == Addition::add) {
      use(std::type_identity<GradientPair<Type, Source, Addition::add>>{});
    } else {
      use(std::type_identity<GradientPair<Type, Source, Addition::replace>>{});
    }
  };
  dispatch_element_type(what.source_type, [&](auto source) {
    if (what.type == ElementType::float32) {
      visit(ElementConstant<ElementType::float32>{}, source);
    } else {
      visit(source, source);
    }
  });
}

}  // namespace detail

/// The bits of `add_gradient` on the CPU: of the accumulator (of a NaN that was added, that it is one), and of the norm
/// that the digits amount to; the digits themselves are not carried. Every operand, and the digits, are in device
/// memory or pinned memory, and aligned to their types.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void add_gradient(const CudaStream& stream, const GradientAddition& what) {
  const bool has_norm = what.norm_begin < what.norm_end;
  if (what.addition == Addition::replace && what.type == what.source_type && !has_norm) {
    return copy_bytes(stream, what.target, what.source, what.elements * element_bytes(what.type));
  }
  constexpr std::size_t per_block = detail::addition_warps * detail::WarpChunk::pair_elements;
  detail::visit_pair(what, [&]<class Pair>(std::type_identity<Pair>) {
    detail::launch(stream, "the addition of a gradient",
                   {.work = (what.elements + per_block - 1) / per_block,
                    .threads = detail::addition_threads,
                    .residency = detail::addition_residency},
                   &detail::add_gradient_pairs<Pair>, what, Pair::access(what));
  });
}

}  // namespace zerospan::inline v0
