// Of the library zerospan::compiled_cuda what needs nvcc: all kernels, compiled once instead of by each source that
// uses them. Those sources then need no nvcc.
#include <cstddef>
#include <span>

#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/detail/cuda_convert_kernels.hpp>
#include <zerospan/kernels/detail/cuda_gradient_kernels.hpp>
#include <zerospan/kernels/detail/cuda_quantization_kernels.hpp>
#include <zerospan/kernels/detail/cuda_rank_order_sum_kernels.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/detail/cuda_rule_kernels.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/sgd.hpp>

namespace zerospan::inline v0::detail {

template void launch_widening(const CudaStream&, ElementType, const std::byte*, float*, std::size_t);
template void launch_narrowing(const CudaStream&, const float*, ElementType, std::byte*, std::size_t);
template void launch_addition(const CudaStream&, const GradientAddition&);
template void launch_rank_order_sum(const CudaStream&, std::span<const std::byte* const>, ElementType, std::byte*,
                                    ElementType, std::size_t);
template void launch_encoding(const CudaStream&, ElementType, const std::byte*, QuantizedType, std::byte*, std::size_t);
template void launch_block_sum(const CudaStream&, std::span<const std::byte* const>, QuantizedType, ElementType,
                               std::byte*, std::size_t);
template void launch_updates(const CudaStream&, const AdamW&, AdamWRule (AdamW::*)(const ShardUpdate&) const,
                             std::span<const ShardUpdate>);
template void launch_updates(const CudaStream&, const Lion&, LionRule (Lion::*)(const ShardUpdate&) const,
                             std::span<const ShardUpdate>);
template void launch_updates(const CudaStream&, const Sgd&, MomentumRule (Sgd::*)(const ShardUpdate&) const,
                             std::span<const ShardUpdate>);
template void launch_updates(const CudaStream&, const Sgd&, SgdRule (Sgd::*)(const ShardUpdate&) const,
                             std::span<const ShardUpdate>);

}  // namespace zerospan::inline v0::detail
