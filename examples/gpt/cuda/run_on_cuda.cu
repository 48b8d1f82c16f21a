/// @file
/// --device cuda: the GPUs there are, and ranks that copy straight from each other's memory.
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <zerospan/cuda.hpp>
#include <zerospan/zerospan.hpp>

#include "cuda_platform.hpp"
#include "run_on_cuda.hpp"

namespace {

/// @throws zerospan::ConfigurationError if there is none.
int gpu_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  const std::string why = code == cudaSuccess ? "" : std::string{": "} + cudaGetErrorString(code);
  zerospan::throw_configuration_error("--device cuda needs a GPU, and CUDA finds none" + why);
}

}  // namespace

std::vector<gpt::Result> gpt::run_on_cuda(const Job& job) {
  const int gpus = gpu_count();
  if (job.options.communicator == CommunicatorKind::nccl) return run_on_nccl(job, gpus);
  std::vector<int> used(static_cast<std::size_t>(std::min(gpus, job.options.ranks)));
  std::iota(used.begin(), used.end(), 0);
  zerospan::enable_peer_access(used);
  return run_cuda_threads<zerospan::CudaThreadCommunicator>(
      job, gpus, [](zerospan::ThreadCommunicator ranks, zerospan::CudaDevice& device) {
        return zerospan::CudaThreadCommunicator{std::move(ranks), device};
      });
}
