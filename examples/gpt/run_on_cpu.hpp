/// @file
/// Ranks that compute on the CPU, among them those that are threads.
#pragma once

#include <utility>
#include <vector>

#include <cblas.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/device/host_device.hpp>

#include "cpu_math.hpp"
#include "run.hpp"
#include "storage.hpp"

namespace gpt {

/// One rank's.
template <zerospan::TrainingCommunicator C>
class CpuPlatform {
 public:
  using Ranks = C;
  using Storage = RankStorage<zerospan::HostDevice>;

  CpuPlatform(C communicator, const Job& job)
      : communicator_{std::move(communicator)}, storage_{job.options, communicator_.rank().value, job.timeline} {}

  C& ranks() { return communicator_; }
  C& communicator() { return communicator_; }
  Storage& storage() { return storage_; }

  template <class E>
  CpuMath<E> make_math(const Options& options) {
    return CpuMath<E>{options.model};
  }

 private:
  C communicator_;
  Storage storage_;
};

template <zerospan::TrainingCommunicator C>
Result run_rank_on_cpu(C communicator, const Job& job) {
  CpuPlatform<C> platform{std::move(communicator), job};
  return run_rank(platform, job);
}

/// Ranks that are threads. @return Of each rank.
inline std::vector<Result> run_on_cpu(const Job& job) {
  ::openblas_set_num_threads(job.options.threads);
  return zerospan::run_ranks(
      job.options.ranks,
      [&job](zerospan::ThreadCommunicator communicator) { return run_rank_on_cpu(std::move(communicator), job); },
      {.timeout = timeout_of(job.options)});
}

}  // namespace gpt
