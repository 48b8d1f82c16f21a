// How much of an optimizer step hides behind passes through the model, in virtual time.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "support/ghost.hpp"
#include "support/trillion_step.hpp"

namespace {

namespace sim = zerospan::sim;
using zerospan::OperationKind;
using zerospan::UpdateTime;
using zerospan_test::forward_seconds;
using zerospan_test::StepTimes;
using Ghost = zerospan_test::Ghost<zerospan::bfloat16>;
using namespace zerospan::literals;

StepTimes step_of(const zerospan_test::TrillionTraining& training) {
  const StepTimes times = zerospan_test::step_of_a_trillion(training);
  MESSAGE("a step of " << times.step << " s: compute takes " << 3 * forward_seconds << " s, reads " << times.reads
                       << " s, writes " << times.writes << " s");
  return times;
}

TEST_CASE("a step of a trillion parameters on one node takes as long as its busiest lane, where updates come early") {
  const StepTimes early = step_of({.updates = UpdateTime::during_backward});
  CHECK(early.step < 1.05 * early.busiest());
}

TEST_CASE("behind the next forward pass alone, updates take what the disk needs for them, and nothing more") {
  const StepTimes after = step_of({});
  CHECK(after.step < 1.02 * (2 * forward_seconds + after.writes));  // all of the step's writes are updates
}

/// How many updates a step has of a model of so many layers of bf16, on one rank with as much staging memory.
std::ptrdiff_t updates_of_a_step(std::size_t layers, std::size_t elements, zerospan::Bytes staging) {
  sim::Cluster cluster{sim::one_node(1, {.copy = {1e9}, .network = {1e9}, .update = 1e9})};
  sim::HostDevice device{cluster, zerospan::Rank{0}, {.device_budget = 1_GiB, .host_budget = 8_GiB}};
  sim::Communicator communicator{cluster, zerospan::Rank{0}};
  sim::Tier disk{device, {.capacity = 64_GiB, .own = sim::Disk{1e9, 1e9}}};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
                              zerospan::AdamW{}, zerospan::EngineOptions{.staging = staging}};
  std::vector<zerospan::PartitionedParameter<Ghost>> model;
  for (std::size_t l = 0; l < layers; ++l) {
    model.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{elements}, zerospan::init::zeros());
  }
  for (const auto& layer : model) layer.gradient(zerospan::calling_thread).commit();
  engine.step();
  engine.synchronize();
  const sim::Schedule schedule = cluster.resolve();
  return std::ranges::count(schedule, OperationKind::update, &sim::Event::kind);
}

TEST_CASE("a model has a dozen sub-groups or more, however much memory there is for them") {
  constexpr std::size_t million = std::size_t{1} << 20;
  CHECK(updates_of_a_step(24, million, 4_GiB) == 12);  // of two layers each
  CHECK(updates_of_a_step(24, million / 16, 4_GiB) == 12);
  CHECK(updates_of_a_step(24, million, 128_MiB) == 46);    // twelve fit into the staging memory
  CHECK(updates_of_a_step(24, 8 * million, 4_GiB) == 24);  // no larger than the options say
  CHECK(updates_of_a_step(24, 8192, 4_GiB) == 4);          // no less than 1 MiB of staging memory
  CHECK(updates_of_a_step(1, 4096, 4_GiB) == 1);
}

}  // namespace
