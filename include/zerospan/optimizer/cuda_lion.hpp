/// @file
/// Lion on a CUDA device.
#pragma once

#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/optimizer/detail/cuda_rule_update.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0 {

/// Updates of any number of runs: as AdamW's (optimizer/cuda_adamw.hpp).
inline void update(const CudaStream& stream, const Lion& lion, std::span<const ShardUpdate> shards) {
  detail::launch_updates(stream, lion, &Lion::rule, shards);
}

/// The update of one run.
inline void update(const CudaStream& stream, const Lion& lion, const ShardUpdate& shard) {
  update(stream, lion, {&shard, 1});
}

static_assert(UpdatesOn<Lion, CudaStream>);

}  // namespace zerospan::inline v0
