/// @file
/// Sgd on a CUDA device.
#pragma once

#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/optimizer/detail/cuda_rule_update.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/sgd.hpp>

namespace zerospan::inline v0 {

/// Updates of any number of runs: as AdamW's (optimizer/cuda_adamw.hpp).
inline void update(const CudaStream& stream, const Sgd& sgd, std::span<const ShardUpdate> shards) {
  if (sgd.momentum > 0) {
    detail::launch_updates(stream, sgd, &Sgd::momentum_rule, shards);
  } else {
    detail::launch_updates(stream, sgd, &Sgd::plain_rule, shards);
  }
}

/// The update of one run.
inline void update(const CudaStream& stream, const Sgd& sgd, const ShardUpdate& shard) {
  update(stream, sgd, {&shard, 1});
}

static_assert(UpdatesOn<Sgd, CudaStream>);

}  // namespace zerospan::inline v0
