/// @file
/// The sizes of launches, and their errors.
#pragma once

#include <cstddef>
#include <string_view>

#include <cuda_runtime_api.h>

#include <zerospan/device/cuda_error.hpp>

namespace gpt::cuda {

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned block_size = 256;

inline unsigned divide_up(std::size_t dividend, std::size_t divisor) {
  return static_cast<unsigned>((dividend + divisor - 1) / divisor);
}

/// Blocks for `threads` threads, each of which takes its turn again if there is still more to do.
inline unsigned blocks_for(std::size_t threads) {
  constexpr std::size_t most = 8192;
  const std::size_t blocks = (threads + block_size - 1) / block_size;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

/// @param kernel What was just launched. @throws zerospan::CudaError if it could not be.
inline void check_launch(std::string_view kernel) { zerospan::check_cuda(cudaPeekAtLastError(), kernel); }

}  // namespace gpt::cuda
