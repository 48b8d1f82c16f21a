/// @file
/// What links with its like.
#pragma once

#include <cstddef>

#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>

using Conversion = void(const zerospan::CudaStream& stream, zerospan::ElementType type, const std::byte* from,
                        float* to, std::size_t elements);

/// By kernels that were compiled with the caller of this, and elsewhere too.
Conversion* conversion_with_kernels();
