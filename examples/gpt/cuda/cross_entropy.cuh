/// @file
/// The negative log-likelihood of the targets under softmax(logits), on the GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <cuda_runtime_api.h>

#include "../dimensions.hpp"
#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"
#include "reduce.cuh"
#include "softmax.cuh"

namespace gpt::cuda {

namespace detail {

/// Of the vocabulary, each lane of a warp has neighbours.
inline constexpr int logits_a_lane = Dimensions::vocabulary / warp_size;

/// A warp a row: the row becomes its softmax.
template <class Logit>
__global__ void cross_entropy_forward_kernel(Tensor<Logit> logits, const std::uint8_t* targets, float* losses) {
  const std::size_t r = warp_index();
  if (r >= logits.rows) return;
  const float target = logits.row(r)[targets[r]];
  float* own = logits.row(r) + threadIdx.x % warp_size * logits_a_lane;
  float values[logits_a_lane];
  load(own, values);
  float largest = values[0];
#pragma unroll
  for (const float value : values) largest = fmaxf(largest, value);
  largest = warp_maximum(largest);
  float sum = 0;
#pragma unroll
  for (float& value : values) sum += value = expf(value - largest);
  sum = warp_sum(sum);
#pragma unroll
  for (float& value : values) value /= sum;
  __syncwarp();  // every lane has read the target
  store(values, own);
  if (threadIdx.x % warp_size == 0) losses[r] = largest + logf(sum) - target;
}

/// One block: thread t adds every loss from t on, and the sums are added as a tree.
template <class Loss>
__global__ void add_losses_kernel(const Loss* losses, std::size_t rows, double divisor, double* loss) {
  __shared__ double sums[block_size];
  double sum = 0;
  for (std::size_t r = threadIdx.x; r < rows; r += block_size) sum += losses[r];
  sums[threadIdx.x] = sum;
  for (unsigned half = block_size / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *loss += sums[0] / divisor;
}

/// A warp a row, which it has read before it writes.
template <class S>
__global__ void cross_entropy_backward_kernel(const std::uint8_t* targets, Tensor<const float> probabilities,
                                              float scale, Tensor<S> gradient) {
  const std::size_t r = warp_index();
  if (r >= probabilities.rows) return;
  const unsigned first = threadIdx.x % warp_size * logits_a_lane;
  const unsigned target = targets[r];
  float values[logits_a_lane];
  load(probabilities.row(r) + first, values);
#pragma unroll
  for (int i = 0; i < logits_a_lane; ++i) values[i] = (values[i] - (first + i == target ? 1.0F : 0.0F)) * scale;
  __syncwarp();
  store(values, gradient.row(r) + first);
}

}  // namespace detail

template <class S>
void Kernels<S>::cross_entropy_forward(cudaStream_t stream, Tensor<float> logits, std::span<const std::uint8_t> targets,
                                       double divisor, float* losses, double* loss) {
  const unsigned blocks = divide_up(logits.rows, detail::warps_a_block);
  detail::cross_entropy_forward_kernel<<<blocks, block_size, 0, stream>>>(logits, targets.data(), losses);
  detail::add_losses_kernel<<<1, block_size, 0, stream>>>(losses, logits.rows, divisor, loss);
  check_launch("cross-entropy");
}

template <class S>
Tensor<const S> Kernels<S>::cross_entropy_backward(cudaStream_t stream, std::span<const std::uint8_t> targets,
                                                   Tensor<float> probabilities, float loss_scale) {
  const Tensor<S> gradient{reinterpret_cast<S*>(probabilities.data), probabilities.rows, probabilities.columns,
                           probabilities.stride * sizeof(float) / sizeof(S)};
  const float scale = loss_scale / static_cast<float>(targets.size());
  const unsigned blocks = divide_up(probabilities.rows, detail::warps_a_block);
  detail::cross_entropy_backward_kernel<S>
      <<<blocks, block_size, 0, stream>>>(targets.data(), Tensor<const float>(probabilities), scale, gradient);
  check_launch("cross-entropy's backward pass");
  return gradient;
}

}  // namespace gpt::cuda
