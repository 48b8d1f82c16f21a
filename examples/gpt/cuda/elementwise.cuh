/// @file
/// Conversion of tensors of contiguous rows.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

#include "../tensor.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "numbers.cuh"

namespace gpt::cuda {

namespace detail {

template <int N, class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::size_t packs) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += stride) {
    float values[N];
    load(from + i * N, values);
    store(values, to + i * N);
  }
}

}  // namespace detail

template <class From, class To>
void convert(cudaStream_t stream, Tensor<const From> from, Tensor<To> to) {
  if (is_packed<8>(from, to)) {
    const std::size_t packs = to.size() / 8;
    detail::convert_kernel<8><<<blocks_for(packs), block_size, 0, stream>>>(from.data, to.data, packs);
  } else {
    detail::convert_kernel<1><<<blocks_for(to.size()), block_size, 0, stream>>>(from.data, to.data, to.size());
  }
  check_launch("a conversion");
}

}  // namespace gpt::cuda
