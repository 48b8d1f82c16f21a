/// @file
/// Sums and maxima over the threads of a warp or a block, in a fixed order: equal on every thread, and repeatable.
#pragma once

#include "launch.hpp"

namespace gpt::cuda {

inline __device__ float warp_sum(float value) {
#pragma unroll
  for (unsigned distance = warp_size / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(~0U, value, distance);
  }
  return value;
}

inline __device__ float warp_maximum(float value) {
#pragma unroll
  for (unsigned distance = warp_size / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0U, value, distance));
  }
  return value;
}

/// Of a block of whole warps. All its threads call it.
inline __device__ float block_sum(float value) {
  __shared__ float partial[warp_size];
  value = warp_sum(value);
  if (blockDim.x == warp_size) return value;
  __syncthreads();  // the sum before this one was read
  if (threadIdx.x % warp_size == 0) partial[threadIdx.x / warp_size] = value;
  __syncthreads();
  float total = 0;
  for (unsigned warp = 0; warp < blockDim.x / warp_size; ++warp) total += partial[warp];
  return total;
}

}  // namespace gpt::cuda
