/// @file
/// Updates by an optimizer's rule on a CUDA device.
#pragma once

#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/optimizer/optimizer.hpp>

#if !defined(ZEROSPAN_COMPILED_CUDA)  // set by the target zerospan::compiled_cuda, which has the kernels
#include <zerospan/optimizer/detail/cuda_rule_kernels.hpp>
#endif

namespace zerospan::inline v0::detail {

/// Enqueues the updates of runs, which do not overlap, in as few launches as their types and number allow.
/// @param rule Makes the arithmetic of the update of a run.
template <class O, class Rule>
void launch_updates(const CudaStream& stream, const O& optimizer, Rule (O::*rule)(const ShardUpdate&) const,
                    std::span<const ShardUpdate> shards);

}  // namespace zerospan::inline v0::detail
