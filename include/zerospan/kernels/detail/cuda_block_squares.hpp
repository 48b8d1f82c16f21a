/// @file
/// The squares of two logical blocks by one warp, in the order of the norm, by way of shared memory. For nvcc.
#pragma once

#include <array>
#include <cstddef>
#include <tuple>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/gradient_kernels.hpp>

namespace zerospan::inline v0::detail {

/// A warp has 32 threads and a block 16 lanes of sums, each with an order of its own: a warp sums two blocks. Elements
/// come from memory coalesced, a chunk of both blocks at a time, and reach the lane that sums them through this.
///
/// Only whole warps call; between `put` and `add_to`, and before the next `put`, the warp is synchronized.
struct WarpChunk {
  static constexpr std::size_t threads = 32;
  static constexpr std::size_t lanes = std::tuple_size_v<NormLanes>;
  static constexpr std::size_t blocks = threads / lanes;
  static constexpr std::size_t rows = 16;
  static constexpr std::size_t row_elements = rows * lanes;            ///< Of one block.
  static constexpr std::size_t elements = blocks * row_elements;       ///< Of both.
  static constexpr std::size_t count = block_elements / row_elements;  ///< Chunks in a block.
  static constexpr std::size_t pair_elements = blocks * block_elements;

  /// Where position `position` of chunk number `chunk` is in the pair of blocks.
  static __host__ __device__ std::size_t offset(std::size_t chunk, std::size_t position) {
    return position / row_elements * block_elements + chunk * row_elements + position % row_elements;
  }

  /// Puts the elements at the positions from `position` on, a multiple of `Width`.
  template <std::size_t Width>
  __host__ __device__ void put(std::size_t position, const Floats<Width>& squared) {
    float* const to = values.data() + place(position);
    if constexpr (Width == 1) {
      *to = squared[0];
    } else {
      for (std::size_t i = 0; i < Width; i += 4) {
        *reinterpret_cast<float4*>(to + i) = {squared[i], squared[i + 1], squared[i + 2], squared[i + 3]};
      }
    }
  }

  /// Adds the squares of a thread's lane to its sum.
  __host__ __device__ void add_to(double& sum, std::size_t thread) const {
    const float* const lane = values.data() + place(thread / lanes * row_elements) + thread % lanes;
    for (std::size_t row = 0; row < rows; ++row) {
      const auto x = static_cast<double>(lane[row * lanes]);
      sum += x * x;  // the square of a float is exact in double: fused or not, the bits are the same
    }
  }

  /// The blocks lie 16 banks apart, so that both halves of a warp read at once.
  static __host__ __device__ std::size_t place(std::size_t position) {
    return position + position / row_elements * lanes;
  }

  alignas(16) std::array<float, elements + blocks * lanes> values;
};

}  // namespace zerospan::inline v0::detail
