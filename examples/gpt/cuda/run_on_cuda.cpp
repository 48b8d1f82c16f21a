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

#include "../run.hpp"
#include "../train.hpp"
#include "cuda_math.hpp"
#include "cuda_module.hpp"
#include "cuda_platform.hpp"
#include "run_on_nccl.hpp"

namespace {

/// @throws zerospan::ConfigurationError if there is none.
int gpu_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  const std::string why = code == cudaSuccess ? "" : std::string{": "} + cudaGetErrorString(code);
  zerospan::throw_configuration_error("--device cuda needs a GPU, and CUDA finds none" + why);
}

std::vector<gpt::Result> run_on_threads(const gpt::Job& job, int gpus) {
  std::vector<int> used(static_cast<std::size_t>(std::min(gpus, job.options.ranks)));
  std::iota(used.begin(), used.end(), 0);
  zerospan::enable_peer_access(used);
  return gpt::run_cuda_threads(job, gpus, [](zerospan::ThreadCommunicator ranks, zerospan::CudaDevice& device) {
    return zerospan::CudaThreadCommunicator{std::move(ranks), device};
  });
}

}  // namespace

gpt::Result gpt::CudaPlatform::train(Engine& engine, const Job& job) {
  const Options& o = job.options;
  const std::size_t most_tokens =
      std::max(o.evaluation_batch(), o.batch * o.micro_batches_at_once()) * o.model.context;
  switch (o.precision) {
    case Precision::bf16:
      return gpt::train(CudaMath<BFloat16>{o.model, most_tokens}, engine, ranks_, job);
    case Precision::fp16:
      return gpt::train(CudaMath<Float16>{o.model, most_tokens}, engine, ranks_, job);
    default:
      return gpt::train(CudaMath<float>{o.model, most_tokens}, engine, ranks_, job);
  }
}

gpt::Result gpt::run_rank_on_cuda(CudaPlatform& platform, const Job& job) { return run_rank(platform, job); }

void train_gpt_on_cuda(const gpt::Job& job, std::vector<gpt::Result>& results) {
  const int gpus = gpu_count();
  results =
      job.options.communicator == gpt::CommunicatorKind::nccl ? gpt::run_on_nccl(job, gpus) : run_on_threads(job, gpus);
}
