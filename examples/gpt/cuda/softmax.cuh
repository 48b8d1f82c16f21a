/// @file
/// The causal softmax of attention scores, a warp a row.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"
#include "reduce.cuh"

namespace gpt::cuda {

namespace detail {

inline __device__ std::size_t warp_index() { return (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x) / warp_size; }

/// Row r is position r mod its length: it sees as many columns, and its own.
template <int N, class S>
__global__ void softmax_forward_kernel(Tensor<S> scores) {
  const std::size_t r = warp_index();
  if (r >= scores.rows) return;
  S* row = scores.row(r);
  const std::size_t seen = r % scores.columns + 1;
  const std::size_t first = threadIdx.x % warp_size * N;

  float largest = -INFINITY, sum = 0;  // of this lane: the sum is relative to the largest
  for (std::size_t c = first; c < seen; c += warp_size * N) {
    float values[N];
    load(row + c, values);
    float most = largest;
#pragma unroll
    for (int i = 0; i < N; ++i) most = c + i < seen ? fmaxf(most, values[i]) : most;
    sum = largest == most ? sum : sum * expf(largest - most);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += c + i < seen ? expf(values[i] - most) : 0.0F;
    largest = most;
  }
  const float most = warp_maximum(largest);
  const float scale = 1.0F / warp_sum(sum == 0.0F ? 0.0F : sum * expf(largest - most));

  for (std::size_t c = first; c < scores.columns; c += warp_size * N) {
    float values[N];
    load(row + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = c + i < seen ? expf(values[i] - most) * scale : 0.0F;
    store(values, row + c);
  }
}

template <int N, class S>
__global__ void softmax_backward_kernel(Tensor<const S> probabilities, Tensor<S> gradient) {
  const std::size_t r = warp_index();
  if (r >= gradient.rows) return;
  const S* p = probabilities.row(r);
  S* row = gradient.row(r);
  const std::size_t seen = r % gradient.columns + 1;
  const std::size_t first = threadIdx.x % warp_size * N;

  float sum = 0;
  for (std::size_t c = first; c < seen; c += warp_size * N) {
    float weights[N], values[N];
    load(p + c, weights);
    load(row + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += c + i < seen ? weights[i] * values[i] : 0.0F;
  }
  const float mean = warp_sum(sum);
  for (std::size_t c = first; c < gradient.columns; c += warp_size * N) {
    float weights[N], values[N];
    load(p + c, weights);
    load(row + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = c + i < seen ? weights[i] * (values[i] - mean) : 0.0F;
    store(values, row + c);
  }
}

inline constexpr unsigned warps_a_block = block_size / warp_size;

}  // namespace detail

template <class S>
void Kernels<S>::causal_softmax_forward(cudaStream_t stream, Tensor<S> scores) {
  const unsigned blocks = divide_up(scores.rows, detail::warps_a_block);
  if (is_packed<8>(scores)) {
    detail::softmax_forward_kernel<8><<<blocks, block_size, 0, stream>>>(scores);
  } else {
    detail::softmax_forward_kernel<1><<<blocks, block_size, 0, stream>>>(scores);
  }
  check_launch("the softmax of attention");
}

template <class S>
void Kernels<S>::causal_softmax_backward(cudaStream_t stream, Input<S> weights, Tensor<S> gradient) {
  const unsigned blocks = divide_up(gradient.rows, detail::warps_a_block);
  if (is_packed<8>(weights, gradient)) {
    detail::softmax_backward_kernel<8, S><<<blocks, block_size, 0, stream>>>(weights, gradient);
  } else {
    detail::softmax_backward_kernel<1, S><<<blocks, block_size, 0, stream>>>(weights, gradient);
  }
  check_launch("the softmax of attention's backward pass");
}

}  // namespace gpt::cuda
