/// @file
/// GELU on the GPU: the formulas of ../gelu.hpp.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include "../gelu.hpp"
#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"

namespace gpt::cuda {

namespace detail {

inline __device__ float gelu_gate(float x) {
  constexpr auto scale = static_cast<float>(gpt::detail::gelu_scale);
  constexpr auto cubic = static_cast<float>(gpt::detail::gelu_cubic);
  return 1.0F / (1.0F + expf(-scale * x * (1.0F + cubic * x * x)));
}

struct Gelu {
  static __device__ float apply(float x, float) { return x * gelu_gate(x); }
};

struct GeluGradient {
  static __device__ float apply(float x, float gradient) {
    constexpr auto scale = static_cast<float>(gpt::detail::gelu_scale);
    constexpr auto slope = static_cast<float>(3.0 * gpt::detail::gelu_cubic);
    const float gate = gelu_gate(x);
    return gradient * (gate + x * gate * (1.0F - gate) * scale * (1.0F + slope * x * x));
  }
};

/// y = f(x, y)
template <class F, int N, class S>
__global__ void gelu_kernel(const S* x, S* y, std::size_t packs) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += stride) {
    float in[N], out[N] = {};
    load(x + i * N, in);
    if constexpr (std::is_same_v<F, GeluGradient>) load(y + i * N, out);
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = F::apply(in[j], out[j]);
    store(out, y + i * N);
  }
}

template <class F, class S>
void launch_gelu(cudaStream_t stream, Tensor<const S> x, Tensor<S> y) {
  if (is_packed<8>(x, y)) {
    gelu_kernel<F, 8><<<blocks_for(y.size() / 8), block_size, 0, stream>>>(x.data, y.data, y.size() / 8);
  } else {
    gelu_kernel<F, 1><<<blocks_for(y.size()), block_size, 0, stream>>>(x.data, y.data, y.size());
  }
  check_launch("GELU");
}

}  // namespace detail

template <class S>
void Kernels<S>::gelu_forward(cudaStream_t stream, Input<S> x, Tensor<S> y) {
  detail::launch_gelu<detail::Gelu, S>(stream, x, y);
}

template <class S>
void Kernels<S>::gelu_backward(cudaStream_t stream, Input<S> x, Tensor<S> gradient) {
  detail::launch_gelu<detail::GeluGradient, S>(stream, x, gradient);
}

}  // namespace gpt::cuda
