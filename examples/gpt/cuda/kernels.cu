/// @file
/// The model's kernels, of each type that it trains in.
#include "kernels.hpp"

#include "../tensor.hpp"
#include "column_sums.cuh"
#include "cross_entropy.cuh"
#include "elementwise.cuh"
#include "embedding.cuh"
#include "gelu.cuh"
#include "layer_norm.cuh"
#include "softmax.cuh"

namespace gpt::cuda {

template struct Kernels<float>;
template struct Kernels<BFloat16>;
template struct Kernels<Float16>;

template void convert(cudaStream_t, Tensor<const float>, Tensor<float>);
template void convert(cudaStream_t, Tensor<const float>, Tensor<BFloat16>);
template void convert(cudaStream_t, Tensor<const float>, Tensor<Float16>);
template void convert(cudaStream_t, Tensor<const BFloat16>, Tensor<float>);
template void convert(cudaStream_t, Tensor<const BFloat16>, Tensor<BFloat16>);
template void convert(cudaStream_t, Tensor<const Float16>, Tensor<float>);
template void convert(cudaStream_t, Tensor<const Float16>, Tensor<Float16>);

}  // namespace gpt::cuda
