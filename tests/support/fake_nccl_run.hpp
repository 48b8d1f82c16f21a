/// @file
/// Training runs of the toy model over a fake NCCL: ranks that are threads, each with a fake GPU of its own.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <utility>

#include <doctest/doctest.h>

#include "fake_gpu_run.hpp"
#include "fake_nccl.hpp"
#include "training_run.hpp"

#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan_test {

using FakeNcclCommunicator = zerospan::detail::BasicNcclCommunicator<fake::Api>;
static_assert(zerospan::TrainingCommunicator<FakeNcclCommunicator>);

/// What nobody should have to wait for.
inline constexpr zerospan::NcclOptions patient{.timeout = std::chrono::minutes{10},
                                               .poll = std::chrono::milliseconds{1}};

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
inline void check_left_nothing(const fake::World& world) {
  CHECK(world.device_allocations == 0);
  CHECK(world.pinned_allocations == 0);
  CHECK(world.events == 0);
  CHECK(world.communicators == 0);
  CHECK(world.registrations == 0);
}

/// One rank of a training run.
inline TrainingResult train_on_fake_nccl(FakeNode& node, zerospan::ThreadCommunicator threads,
                                         const std::shared_ptr<fake::World>& world, const Configuration& c,
                                         const zerospan::NcclOptions& options = patient) {
  FakeNcclCommunicator communicator{zerospan::ThreadExchange{std::move(threads)}, options, node.api(world)};
  return train_on(node.io, node.memory, communicator, c, FakeCompute{node.gpu});
}

/// A training run on nodes that are there, one a rank.
inline TrainingResult train_on_fake_nccl(std::deque<FakeNode>& nodes, const Configuration& c,
                                         const zerospan::NcclOptions& options = patient) {
  const auto world = std::make_shared<fake::World>();
  const auto result = join_results(zerospan::run_ranks(c.training.ranks, [&](zerospan::ThreadCommunicator threads) {
    FakeNode& node = nodes[static_cast<std::size_t>(threads.rank().value)];
    return train_on_fake_nccl(node, std::move(threads), world, c, options);
  }));
  check_left_nothing(*world);
  return result;
}

/// The same on new nodes, of memory as the configuration says.
inline TrainingResult train_on_fake_nccl(const Configuration& c, const zerospan::NcclOptions& options = patient) {
  std::deque<FakeNode> nodes;
  for (int rank = 0; rank < c.training.ranks; ++rank) {
    nodes.emplace_back(c.budget == Budget::tight ? tight_budgets(Needs{c, zerospan::Rank{rank}}) : FakeNode::roomy);
  }
  return train_on_fake_nccl(nodes, c, options);
}

}  // namespace zerospan_test
