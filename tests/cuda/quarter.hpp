/// @file
/// A kernel of the host framework's, for tests that other compilers than nvcc compile.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace zerospan_test {

/// Enqueues to = from / 4.
void quarter(cudaStream_t stream, const float* from, float* to, std::size_t elements);

}  // namespace zerospan_test
