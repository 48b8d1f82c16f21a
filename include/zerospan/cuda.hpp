/// @file
/// All that an engine on GPUs needs: to be included where it is made. Any compiler compiles that source if it links
/// zerospan::compiled_cuda; without it nvcc does, for the headers then have the kernels. Model code, which names
/// PartitionedParameter alone, includes `zerospan/zerospan.hpp`.
#pragma once

#include <zerospan/comm/cuda_thread_communicator.hpp>
#include <zerospan/device/cuda_device.hpp>
#include <zerospan/kernels/cuda_block_quantization.hpp>
#include <zerospan/kernels/cuda_convert.hpp>
#include <zerospan/kernels/cuda_gradient_operations.hpp>
#include <zerospan/kernels/cuda_rank_order_sum.hpp>
#include <zerospan/kernels/stream_kernels.hpp>
#include <zerospan/optimizer/cuda_adamw.hpp>
#include <zerospan/optimizer/cuda_lion.hpp>
#include <zerospan/optimizer/cuda_sgd.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

static_assert(StreamKernels<CudaStream> && SumsRanks<CudaStream> && QuantizesBlocks<CudaStream>);

}  // namespace zerospan::inline v0
