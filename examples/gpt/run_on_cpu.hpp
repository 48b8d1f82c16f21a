/// @file
/// Ranks that are threads, and compute on the CPU.
#pragma once

#include <utility>
#include <vector>

#include <cblas.h>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/device/host_device.hpp>

#include "cpu_math.hpp"
#include "run.hpp"
#include "storage.hpp"

namespace gpt {

/// One rank's.
class CpuPlatform {
 public:
  using Storage = RankStorage<zerospan::HostDevice>;

  CpuPlatform(zerospan::ThreadCommunicator communicator, const Job& job)
      : communicator_{std::move(communicator)}, storage_{job.options, communicator_.rank().value, job.timeline} {}

  zerospan::ThreadCommunicator& ranks() { return communicator_; }
  zerospan::ThreadCommunicator& communicator() { return communicator_; }
  Storage& storage() { return storage_; }

  template <class E>
  CpuMath<E> make_math(const Options& options) {
    return CpuMath<E>{options.model};
  }

 private:
  zerospan::ThreadCommunicator communicator_;
  Storage storage_;
};

/// @return Of each rank.
inline std::vector<Result> run_on_cpu(const Job& job) {
  ::openblas_set_num_threads(job.options.threads);
  return zerospan::run_ranks(job.options.ranks,
                             [&job](zerospan::ThreadCommunicator communicator) {
                               CpuPlatform platform{std::move(communicator), job};
                               return run_rank(platform, job);
                             },
                             {.timeout = timeout_of(job.options)});
}

}  // namespace gpt
