/// @file
/// Sums over the rows of a matrix, column by column, in a fixed order.
#pragma once

#include <algorithm>
#include <cstddef>

#include <cuda_runtime_api.h>

#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"

namespace gpt::cuda {

namespace detail {

inline constexpr unsigned row_lanes = 8;

/// Term for `add_rows_kernel`: the matrix itself.
template <class S>
struct Elements {
  Tensor<const S> matrix;

  template <int N>
  __device__ void get(std::size_t row, std::size_t column, float (&terms)[N]) const {
    load(matrix.row(row) + column, terms);
  }
};

/// Each block sums one chunk of rows, for 32 N columns: row lane j takes rows j, j + 8, ...; the lanes' sums are added
/// in order.
template <int N, class Terms>
__global__ void add_rows_kernel(Terms terms, std::size_t rows, std::size_t rows_a_chunk, Tensor<float> partial) {
  __shared__ float lanes[row_lanes][warp_size * N];
  const std::size_t column = (std::size_t{blockIdx.x} * warp_size + threadIdx.x) * N;
  const std::size_t begin = blockIdx.y * rows_a_chunk;
  const std::size_t end = min(begin + rows_a_chunk, rows);
  float sum[N] = {};
  if (column < partial.columns) {
#pragma unroll 4
    for (std::size_t row = begin + threadIdx.y; row < end; row += row_lanes) {
      float values[N];
      terms.get(row, column, values);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) lanes[threadIdx.y][threadIdx.x * N + i] = sum[i];
  __syncthreads();
  if (threadIdx.y > 0 || column >= partial.columns) return;
  for (int i = 0; i < N; ++i) {
    float total = 0;
    for (unsigned lane = 0; lane < row_lanes; ++lane) total += lanes[lane][threadIdx.x * N + i];
    partial.row(blockIdx.y)[column + i] = total;
  }
}

/// to[c] = partial[0][c] + partial[1][c] + ...
template <class S>
__global__ void add_chunks_kernel(Tensor<const float> partial, S* to) {
  const std::size_t column = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= partial.columns) return;
  float total = 0;
#pragma unroll 8
  for (std::size_t chunk = 0; chunk < partial.rows; ++chunk) total += partial.row(chunk)[column];
  to[column] = rounded<S>(total);
}

/// total[c] = the sum over rows of terms.get(row, c). The order of additions depends on the shape alone.
/// @param packed Whether terms may be got four columns at once.
template <class Terms, class S>
void add_columns(cudaStream_t stream, ColumnSums memory, const Terms& terms, bool packed, std::size_t rows,
                 Tensor<S> total) {
  constexpr std::size_t least_rows = 64;
  const std::size_t chunks = std::clamp<std::size_t>(rows / least_rows, 1, ColumnSums::most_chunks);
  const Tensor<float> sums{memory.partial, chunks, total.columns};
  const std::size_t rows_a_chunk = (rows + chunks - 1) / chunks;
  const dim3 threads{warp_size, row_lanes};
  if (packed) {
    const dim3 grid{divide_up(total.columns, 4 * warp_size), static_cast<unsigned>(chunks)};
    add_rows_kernel<4><<<grid, threads, 0, stream>>>(terms, rows, rows_a_chunk, sums);
  } else {
    const dim3 grid{divide_up(total.columns, warp_size), static_cast<unsigned>(chunks)};
    add_rows_kernel<1><<<grid, threads, 0, stream>>>(terms, rows, rows_a_chunk, sums);
  }
  add_chunks_kernel<<<divide_up(total.columns, block_size), block_size, 0, stream>>>(Tensor<const float>(sums),
                                                                                     total.data);
  check_launch("a sum of rows");
}

}  // namespace detail

template <class S>
void Kernels<S>::sum_of_rows(cudaStream_t stream, ColumnSums sums, Input<S> matrix, Tensor<S> total) {
  detail::add_columns(stream, sums, detail::Elements<S>{matrix}, is_packed<4>(matrix), matrix.rows, total);
}

}  // namespace gpt::cuda
