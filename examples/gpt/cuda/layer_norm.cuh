/// @file
/// Layer normalization on the GPU, of a residual stream in float: the formulas of ../layer_norm.hpp.
#pragma once

#include <algorithm>
#include <cstddef>

#include <cuda_runtime_api.h>

#include "../row_statistics.hpp"
#include "../tensor.hpp"
#include "column_sums.cuh"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"
#include "reduce.cuh"

namespace gpt::cuda {

namespace detail {

/// A block normalizes a row.
template <int N, class S>
__global__ void layer_norm_forward_kernel(Tensor<const float> x, const S* weight, const S* bias, Tensor<S> y,
                                          RowStatistics<float> statistics) {
  const float* in = x.row(blockIdx.x);
  const auto width = static_cast<float>(x.columns);
  float first = 0;
  for (std::size_t c = threadIdx.x * N; c < x.columns; c += blockDim.x * N) {
    float values[N];
    load(in + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) first += values[i];
  }
  const float mean = block_sum(first) / width;
  float squares = 0;
  for (std::size_t c = threadIdx.x * N; c < x.columns; c += blockDim.x * N) {
    float values[N];
    load(in + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) squares += (values[i] - mean) * (values[i] - mean);
  }
  const float inverse = 1.0F / sqrtf(block_sum(squares) / width + static_cast<float>(layer_norm_epsilon));
  for (std::size_t c = threadIdx.x * N; c < x.columns; c += blockDim.x * N) {
    float values[N], scale[N], shift[N];
    load(in + c, values);
    load(weight + c, scale);
    load(bias + c, shift);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (values[i] - mean) * inverse * scale[i] + shift[i];
    store(values, y.row(blockIdx.x) + c);
  }
  if (threadIdx.x > 0) return;
  statistics.mean.data[blockIdx.x] = mean;
  statistics.inverse_deviation.data[blockIdx.x] = inverse;
}

/// A block adds to a row of dx.
template <int N, class S>
__global__ void layer_norm_backward_kernel(Tensor<const float> x, const S* weight, Tensor<const S> dy,
                                           RowStatistics<float> statistics, Tensor<float> dx) {
  const float* in = x.row(blockIdx.x);
  const S* dout = dy.row(blockIdx.x);
  const float mean = statistics.mean.data[blockIdx.x];
  const float inverse = statistics.inverse_deviation.data[blockIdx.x];
  float first = 0, second = 0;
  for (std::size_t c = threadIdx.x * N; c < x.columns; c += blockDim.x * N) {
    float values[N], gradients[N], scale[N];
    load(in + c, values);
    load(dout + c, gradients);
    load(weight + c, scale);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float dnormalized = gradients[i] * scale[i];
      first += dnormalized;
      second += dnormalized * ((values[i] - mean) * inverse);
    }
  }
  first = block_sum(first) / static_cast<float>(x.columns);
  second = block_sum(second) / static_cast<float>(x.columns);
  for (std::size_t c = threadIdx.x * N; c < x.columns; c += blockDim.x * N) {
    float values[N], gradients[N], scale[N], sum[N];
    load(in + c, values);
    load(dout + c, gradients);
    load(weight + c, scale);
    load(dx.row(blockIdx.x) + c, sum);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float normalized = (values[i] - mean) * inverse;
      sum[i] += (gradients[i] * scale[i] - first - normalized * second) * inverse;
    }
    store(sum, dx.row(blockIdx.x) + c);
  }
}

/// Terms of the weight's gradient.
template <class S>
struct WeightTerms {
  Tensor<const float> x;
  Tensor<const S> dy;
  RowStatistics<float> statistics;

  template <int N>
  __device__ void get(std::size_t row, std::size_t column, float (&terms)[N]) const {
    float values[N];
    load(x.row(row) + column, values);
    load(dy.row(row) + column, terms);
    const float mean = statistics.mean.data[row];
    const float inverse = statistics.inverse_deviation.data[row];
#pragma unroll
    for (int i = 0; i < N; ++i) terms[i] *= (values[i] - mean) * inverse;
  }
};

/// Threads for a row of `packs` packs.
inline unsigned threads_for(std::size_t packs) {
  return std::clamp(divide_up(packs, warp_size) * warp_size, warp_size, block_size);
}

}  // namespace detail

template <class S>
void Kernels<S>::layer_norm_forward(cudaStream_t stream, Tensor<const float> x, Input<S> weight, Input<S> bias,
                                    Tensor<S> y, RowStatistics<float> statistics) {
  const auto rows = static_cast<unsigned>(x.rows);
  if (is_packed<8>(x, weight, bias, y)) {
    detail::layer_norm_forward_kernel<8>
        <<<rows, detail::threads_for(x.columns / 8), 0, stream>>>(x, weight.data, bias.data, y, statistics);
  } else {
    detail::layer_norm_forward_kernel<1>
        <<<rows, detail::threads_for(x.columns), 0, stream>>>(x, weight.data, bias.data, y, statistics);
  }
  check_launch("layer normalization");
}

template <class S>
void Kernels<S>::layer_norm_backward_weight(cudaStream_t stream, ColumnSums sums, Tensor<const float> x, Input<S> dy,
                                            RowStatistics<float> statistics, Tensor<S> dweight) {
  detail::add_columns(stream, sums, detail::WeightTerms<S>{x, dy, statistics}, is_packed<4>(x, dy), x.rows, dweight);
}

template <class S>
void Kernels<S>::layer_norm_backward_input(cudaStream_t stream, Tensor<const float> x, Input<S> weight, Input<S> dy,
                                           RowStatistics<float> statistics, Tensor<float> dx) {
  const auto rows = static_cast<unsigned>(x.rows);
  if (is_packed<8>(x, weight, dy, dx)) {
    detail::layer_norm_backward_kernel<8>
        <<<rows, detail::threads_for(x.columns / 8), 0, stream>>>(x, weight.data, dy, statistics, dx);
  } else {
    detail::layer_norm_backward_kernel<1>
        <<<rows, detail::threads_for(x.columns), 0, stream>>>(x, weight.data, dy, statistics, dx);
  }
  check_launch("layer normalization's backward pass");
}

}  // namespace gpt::cuda
