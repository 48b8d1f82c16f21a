/// @file
/// What a rank computes on that has no GPU.
#pragma once

#include <utility>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/device/host_device.hpp>

#include "engine.hpp"
#include "job.hpp"
#include "levels.hpp"
#include "matrix_products.hpp"
#include "options.hpp"
#include "result.hpp"
#include "storage.hpp"

namespace gpt {

/// One rank's.
class CpuPlatform {
 public:
  using Storage = RankStorage<zerospan::HostDevice>;

  template <zerospan::TrainingCommunicator C>
  CpuPlatform(C ranks, const Job& job)
      : storage_{job.options, ranks.rank().value, job.timeline},
        communicator_{in_levels(ranks.duplicate(), storage_.device(), job.options)},
        ranks_{std::move(ranks)},
        has_narrow_products_{multiplies_in_bf16(ranks_, job.options)} {}

  zerospan::AnyCommunicator& ranks() { return ranks_; }
  zerospan::AnyCommunicator& communicator() { return communicator_; }
  Storage& storage() { return storage_; }

  /// Takes a moment: it tries them.
  MatrixProducts products(const Options& options) const;

  Result train(Engine& engine, const Job& job);

 private:
  /// A collective. @throws zerospan::ConfigurationError if products in bf16 are wanted, and a rank has none.
  static bool multiplies_in_bf16(zerospan::AnyCommunicator& ranks, const Options& options);

  Storage storage_;
  zerospan::AnyCommunicator communicator_;
  zerospan::AnyCommunicator ranks_;
  bool has_narrow_products_;
};

Result run_rank_on_cpu(CpuPlatform& platform, const Job& job);

}  // namespace gpt
