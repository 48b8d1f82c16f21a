/// @file
/// Token and position embeddings on the GPU. Gradients are summed in a fixed order, without atomics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <cuda_runtime_api.h>

#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"

namespace gpt::cuda {

namespace detail {

/// A block fills a row of y.
template <int N, class S>
__global__ void embedding_forward_kernel(const std::uint8_t* tokens, std::size_t length, Tensor<const S> token,
                                         Tensor<const S> position, Tensor<float> y) {
  const S* a = token.row(tokens[blockIdx.x]);
  const S* b = position.row(blockIdx.x % length);
  for (std::size_t c = threadIdx.x * N; c < y.columns; c += blockDim.x * N) {
    float left[N], right[N];
    load(a + c, left);
    load(b + c, right);
#pragma unroll
    for (int i = 0; i < N; ++i) left[i] += right[i];
    store(left, y.row(blockIdx.x) + c);
  }
}

inline constexpr unsigned token_warps = 8;
inline constexpr unsigned token_columns = 4 * warp_size;  // of a block

/// Block (v, j) sums the rows of token v, for the j-th columns: warp w takes every eighth 32 tokens, in order; the
/// warps' sums are added in order.
template <class S>
__global__ void embedding_backward_token_kernel(const std::uint8_t* tokens, Tensor<const float> dy, Tensor<S> dtoken) {
  constexpr int columns_a_lane = token_columns / warp_size;
  __shared__ float partial[token_warps][token_columns];
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned warp = threadIdx.x / warp_size;
  const std::size_t first = std::size_t{blockIdx.y} * token_columns + lane;
  float sum[columns_a_lane] = {};
  for (std::size_t base = warp * warp_size; base < dy.rows; base += token_warps * warp_size) {
    const bool is_wanted = base + lane < dy.rows && tokens[base + lane] == blockIdx.x;
    for (unsigned wanted = __ballot_sync(~0U, is_wanted); wanted != 0; wanted &= wanted - 1) {
      const float* row = dy.row(base + static_cast<unsigned>(__ffs(static_cast<int>(wanted)) - 1));
#pragma unroll
      for (int i = 0; i < columns_a_lane; ++i) {
        const std::size_t column = first + i * warp_size;
        sum[i] += column < dy.columns ? row[column] : 0.0F;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < columns_a_lane; ++i) partial[warp][lane + i * warp_size] = sum[i];
  __syncthreads();
  const std::size_t column = std::size_t{blockIdx.y} * token_columns + threadIdx.x;
  if (threadIdx.x >= token_columns || column >= dy.columns) return;
  float total = 0;
  for (unsigned w = 0; w < token_warps; ++w) total += partial[w][threadIdx.x];
  dtoken.row(blockIdx.x)[column] = rounded<S>(total);
}

/// Block (j, p) sums the rows at position p, for the j-th columns.
template <class S>
__global__ void embedding_backward_position_kernel(std::size_t length, Tensor<const float> dy, Tensor<S> dposition) {
  const std::size_t column = std::size_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (column >= dy.columns) return;
  float total = 0;
  if (blockIdx.x < length) {
#pragma unroll 4
    for (std::size_t row = blockIdx.x; row < dy.rows; row += length) total += dy.row(row)[column];
  }
  dposition.row(blockIdx.x)[column] = rounded<S>(total);
}

}  // namespace detail

template <class S>
void Kernels<S>::embedding_forward(cudaStream_t stream, std::span<const std::uint8_t> tokens, std::size_t length,
                                   Input<S> token, Input<S> position, Tensor<float> y) {
  const auto rows = static_cast<unsigned>(tokens.size());
  if (is_packed<8>(token, position, y)) {
    detail::embedding_forward_kernel<8><<<rows, warp_size, 0, stream>>>(tokens.data(), length, token, position, y);
  } else {
    detail::embedding_forward_kernel<1><<<rows, warp_size, 0, stream>>>(tokens.data(), length, token, position, y);
  }
  check_launch("the embedding");
}

template <class S>
void Kernels<S>::embedding_backward_token(cudaStream_t stream, std::span<const std::uint8_t> tokens,
                                          Tensor<const float> dy, Tensor<S> dtoken) {
  const dim3 grid{static_cast<unsigned>(dtoken.rows), divide_up(dy.columns, detail::token_columns)};
  detail::embedding_backward_token_kernel<<<grid, detail::token_warps * warp_size, 0, stream>>>(tokens.data(), dy,
                                                                                                dtoken);
  check_launch("the gradient of the token embedding");
}

template <class S>
void Kernels<S>::embedding_backward_position(cudaStream_t stream, std::size_t length, Tensor<const float> dy,
                                             Tensor<S> dposition) {
  const dim3 grid{static_cast<unsigned>(dposition.rows), divide_up(dy.columns, block_size)};
  detail::embedding_backward_position_kernel<<<grid, block_size, 0, stream>>>(length, dy, dposition);
  check_launch("the gradient of the position embedding");
}

}  // namespace gpt::cuda
