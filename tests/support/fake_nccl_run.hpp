/// @file
/// Training runs of the toy model over a fake NCCL: ranks that are threads, each with a fake GPU of its own.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>

#include "fake_gpu_run.hpp"
#include "fake_nccl.hpp"
#include "training_run.hpp"

#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan_test {

using FakeNcclCommunicator = FakeNccl<fake::Api>;
static_assert(zerospan::TrainingCommunicator<FakeNcclCommunicator>);

/// One rank's GPU and tiers. It outlives communicators and engines, and may have others later.
struct FakeNode {
  static constexpr zerospan::StreamDeviceOptions roomy{.device_budget = zerospan::Bytes{std::size_t{64} << 20},
                                                       .host_budget = zerospan::Bytes{std::size_t{64} << 20}};

  explicit FakeNode(const zerospan::StreamDeviceOptions& budgets = roomy)
      : memory{io, [&] {
                 return FakeDevice{FakeRuntime{gpu}, budgets};
               }} {}

  fake::Api api(const std::shared_ptr<fake::World>& world) const { return fake::Api{world, gpu}; }

  std::shared_ptr<FakeGpu> gpu = std::make_shared<FakeGpu>();
  zerospan::ThreadedIoEngine io;
  Memory<zerospan::ThreadedIoEngine, FakeDevice> memory;
};

/// Checks that no communicator has left anything behind.
void check_left_nothing(const fake::World& world);

/// One rank of a training run.
TrainingResult train_on_fake_nccl(FakeNode& node, zerospan::ThreadCommunicator threads,
                                  const std::shared_ptr<fake::World>& world, const Configuration& c,
                                  const zerospan::NcclOptions& options = patient);

/// A training run on nodes that are there, one a rank.
TrainingResult train_on_fake_nccl(std::deque<FakeNode>& nodes, const Configuration& c,
                                  const zerospan::NcclOptions& options = patient);

/// The same on new nodes, of memory as the configuration says.
TrainingResult train_on_fake_nccl(const Configuration& c, const zerospan::NcclOptions& options = patient);

}  // namespace zerospan_test
