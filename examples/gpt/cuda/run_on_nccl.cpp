/// @file
/// --device cuda --comm nccl: a GPU for each rank.
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/nccl_communicator.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/cuda.hpp>
#include <zerospan/zerospan.hpp>

#include "cuda_platform.hpp"
#include "run_on_nccl.hpp"

std::vector<gpt::Result> gpt::run_on_nccl(const Job& job, int gpus) {
  const int ranks = job.options.ranks;
  if (ranks > gpus) {
    zerospan::throw_configuration_error("--comm nccl takes a GPU for each rank: there are " + std::to_string(gpus) +
                                        " for " + std::to_string(ranks) + " ranks; --comm thread shares them");
  }
  const auto timeout = timeout_of(job.options);
  return run_cuda_threads(
      job, gpus, [timeout](zerospan::ThreadCommunicator threads, zerospan::CudaDevice&) {
        return zerospan::NcclCommunicator{zerospan::ThreadExchange{std::move(threads)}, {.timeout = timeout}};
      });
}
