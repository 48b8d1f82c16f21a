/// @file
/// zerospan: ZeRO across the span of GPU, CPU and NVMe memory. This facade needs the standard library and threads
/// alone; headers named after a dependency (`zerospan/io/libaio_engine.hpp`) are included beside it.
#pragma once

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/figures.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/sgd.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/partition/partitioner.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/measured_weights.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>
#include <zerospan/tiling/tiled_linear.hpp>
#include <zerospan/version.hpp>
