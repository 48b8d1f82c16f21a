/// @file
/// The engines that compute on the CPU.
#include "run_on_cpu.hpp"

#include <utility>
#include <vector>

#include <cblas.h>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>

namespace gpt {

Result run_rank_on_cpu(CpuPlatform& platform, const Job& job) {
  return run_rank(platform, job);
}

std::vector<Result> run_on_cpu(const Job& job) {
  ::openblas_set_num_threads(job.options.threads);
  return zerospan::run_ranks(
      job.options.ranks,
      [&job](zerospan::ThreadCommunicator communicator) {
        CpuPlatform platform{std::move(communicator), job};
        return run_rank_on_cpu(platform, job);
      },
      {.timeout = timeout_of(job.options)});
}

}  // namespace gpt
