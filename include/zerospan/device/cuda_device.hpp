/// @file
/// CudaDevice: one GPU.
#pragma once

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_runtime.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/stream_device.hpp>

namespace zerospan::inline v0 {

using CudaDeviceOptions = StreamDeviceOptions;

/// A GPU's memory, and pinned host memory, under hard budgets.
/// @code
/// zerospan::CudaDevice device{zerospan::CudaRuntime{0}, {.device_budget = 60_GiB, .host_budget = 200_GiB}};
/// @endcode
/// The host's streams are passed as `StreamRef{static_cast<void*>(stream)}`. An engine on it needs the stream
/// operations of the optimizers and of gradients: `zerospan/cuda.hpp` has them all.
using CudaDevice = StreamDevice<CudaRuntime>;

static_assert(Device<CudaDevice>);

}  // namespace zerospan::inline v0
