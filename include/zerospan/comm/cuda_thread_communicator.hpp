/// @file
/// CudaThreadCommunicator: ranks that are threads of one process, on one GPU or several.
#pragma once

#include <span>
#include <string>

#include <cuda_runtime_api.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/stream_thread_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/cuda_device.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_runtime.hpp>
#include <zerospan/device/detail/cuda_current_device.hpp>

namespace zerospan::inline v0 {

/// Moves bytes by device copies and sums them in rank order. On several GPUs, each can address the others' memory.
/// @code
/// zerospan::run_ranks(2, [](zerospan::ThreadCommunicator threads) {
///   zerospan::CudaDevice device{zerospan::CudaRuntime{0}};
///   zerospan::CudaThreadCommunicator communicator{threads.duplicate(), device};
/// @endcode
using CudaThreadCommunicator = StreamThreadCommunicator<CudaRuntime>;

/// Lets the devices of a process address each other's memory, as ranks on several GPUs have to.
/// @param ordinals As CUDA counts devices. @throws ConfigurationError if two of them cannot; CudaError
inline void enable_peer_access(std::span<const int> ordinals) {
  for (const int device : ordinals) {
    const detail::CudaCurrentDevice current{device};
    for (const int peer : ordinals) {
      if (peer == device) continue;
      int can_access = 0;
      check_cuda(cudaDeviceCanAccessPeer(&can_access, device, peer), "asking for access among devices");
      if (can_access == 0) {
        throw_configuration_error("CUDA device " + std::to_string(device) + " cannot address the memory of device " +
                                  std::to_string(peer));
      }
      const cudaError_t code = cudaDeviceEnablePeerAccess(peer, 0);
      if (code == cudaErrorPeerAccessAlreadyEnabled) {
        static_cast<void>(cudaGetLastError());
      } else {
        check_cuda(code, "giving device " + std::to_string(device) + " access to device " + std::to_string(peer));
      }
    }
  }
}

}  // namespace zerospan::inline v0
