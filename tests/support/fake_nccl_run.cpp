#include "fake_nccl_run.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <memory>
#include <utility>

#include <zerospan/zerospan.hpp>

#include "engines.hpp"
#include "fake_gpu_run.hpp"
#include "training_run.hpp"

namespace zerospan_test {

void check_left_nothing(const fake::World& world) {
  CHECK(world.device_allocations == 0);
  CHECK(world.pinned_allocations == 0);
  CHECK(world.events == 0);
  CHECK(world.communicators == 0);
  CHECK(world.registrations == 0);
}

TrainingResult train_on_fake_nccl(FakeNode& node, zerospan::ThreadCommunicator threads,
                                  const std::shared_ptr<fake::World>& world, const Configuration& c,
                                  const zerospan::NcclOptions& options) {
  FakeNcclCommunicator communicator{zerospan::ThreadExchange{std::move(threads)}, options, node.api(world)};
  return train_on(node.io, node.memory, communicator, c, FakeCompute{node.gpu});
}

TrainingResult train_on_fake_nccl(std::deque<FakeNode>& nodes, const Configuration& c,
                                  const zerospan::NcclOptions& options) {
  const auto world = std::make_shared<fake::World>();
  const auto result = join_results(zerospan::run_ranks(c.training.ranks, [&](zerospan::ThreadCommunicator threads) {
    FakeNode& node = nodes[static_cast<std::size_t>(threads.rank().value)];
    return train_on_fake_nccl(node, std::move(threads), world, c, options);
  }));
  check_left_nothing(*world);
  return result;
}

TrainingResult train_on_fake_nccl(const Configuration& c, const zerospan::NcclOptions& options) {
  std::deque<FakeNode> nodes;
  for (int rank = 0; rank < c.training.ranks; ++rank) {
    nodes.emplace_back(c.budget == Budget::tight ? tight_budgets(Needs{c, zerospan::Rank{rank}}) : FakeNode::roomy);
  }
  return train_on_fake_nccl(nodes, c, options);
}

}  // namespace zerospan_test
