/// @file
/// What a rank computes on that has a GPU, and the threads that are such ranks.
#pragma once

#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/device/cuda_device.hpp>
#include <zerospan/device/cuda_runtime.hpp>

#include "../engine.hpp"
#include "../job.hpp"
#include "../levels.hpp"
#include "../matrix_products.hpp"
#include "../options.hpp"
#include "../result.hpp"
#include "../storage.hpp"

namespace gpt {

/// One rank's.
class CudaPlatform {
 public:
  using Storage = RankStorage<zerospan::CudaDevice>;

  /// @param ranks Of the threads.
  /// @param connect Makes the communicator of the GPUs, from that of the threads and the device.
  template <class Connect>
  CudaPlatform(zerospan::ThreadCommunicator ranks, int ordinal, const Job& job, Connect connect)
      : storage_{job.options, ranks.rank().value, job.timeline, zerospan::CudaRuntime{ordinal}},
        communicator_{in_levels(connect(ranks.duplicate(), storage_.device()), storage_.device(), job.options)},
        ranks_{std::move(ranks)} {}

  zerospan::AnyCommunicator& ranks() { return ranks_; }
  zerospan::AnyCommunicator& communicator() { return communicator_; }
  Storage& storage() { return storage_; }

  static MatrixProducts products(const Options&) { return {.library = "cuBLASLt"}; }

  Result train(Engine& engine, const Job& job);

 private:
  Storage storage_;
  zerospan::AnyCommunicator communicator_;
  zerospan::AnyCommunicator ranks_;
};

Result run_rank_on_cuda(CudaPlatform& platform, const Job& job);

/// Rank r on GPU r modulo `gpus`. @return Of each rank.
template <class Connect>
std::vector<Result> run_cuda_threads(const Job& job, int gpus, Connect connect) {
  return zerospan::run_ranks(job.options.ranks,
                             [&](zerospan::ThreadCommunicator ranks) {
                               const int ordinal = ranks.rank().value % gpus;
                               CudaPlatform platform{std::move(ranks), ordinal, job, connect};
                               return run_rank_on_cuda(platform, job);
                             },
                             {.timeout = timeout_of(job.options)});
}

}  // namespace gpt
