/// What does not include the kernels of CUDA has none, on the host's least of all. Checked by the host's compiler.
#include <zerospan/device/cuda_device.hpp>
#include <zerospan/kernels/stream_kernels.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/optimizer.hpp>

static_assert(!zerospan::StreamKernels<zerospan::CudaStream>);
static_assert(!zerospan::SumsRanks<zerospan::CudaStream>);
static_assert(!zerospan::QuantizesBlocks<zerospan::CudaStream>);
static_assert(!zerospan::UpdatableOn<zerospan::AdamW, zerospan::CudaDevice>);
