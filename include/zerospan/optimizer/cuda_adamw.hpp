/// @file
/// AdamW on a CUDA device.
#pragma once

#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/detail/cuda_rule_update.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0 {

/// Updates of any number of runs, which do not overlap, about 30 a launch: the bits of `AdamW::update` (of a NaN, that
/// it is one). Their arrays are in device memory or pinned memory, each aligned to its type.
/// @note Enqueued; the span may go before it is done. @throws ConfigurationError if a step is not positive; CudaError
/// if it cannot be enqueued.
inline void update(const CudaStream& stream, const AdamW& adamw, std::span<const ShardUpdate> shards) {
  detail::launch_updates(stream, adamw, &AdamW::rule, shards);
}

/// The update of one run.
inline void update(const CudaStream& stream, const AdamW& adamw, const ShardUpdate& shard) {
  update(stream, adamw, {&shard, 1});
}

static_assert(UpdatesOn<AdamW, CudaStream>);

}  // namespace zerospan::inline v0
