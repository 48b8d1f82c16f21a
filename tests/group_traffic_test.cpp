#include <doctest/doctest.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/counted_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::QuantizedType;
using zerospan::ThreadCommunicator;

using Counted = zerospan::CountedCommunicator<ThreadCommunicator>;
using Tensor = zerospan_test::Array<bfloat16>;

constexpr int ranks = 6;
constexpr int ranks_per_group = 2;
constexpr int groups = ranks / ranks_per_group;
constexpr std::size_t layers = 3;
constexpr std::size_t elements = ranks * 2048;  // of a layer: no padding
constexpr std::size_t psi = layers * elements * sizeof(bfloat16);

/// Bytes that a rank receives in a step over each level.
struct Traffic {
  std::size_t within = 0;
  std::size_t across = 0;
};

/// One step of so many micro-batches, every layer gathered in forward and in backward.
template <class Engine>
void train_step(Engine& engine, std::vector<zerospan::PartitionedParameter<Tensor>>& weights,
                std::size_t micro_batches) {
  for (std::size_t micro = 0; micro < micro_batches; ++micro) {
    for (const auto& weight : weights) static_cast<void>(weight.gather(calling_thread));
    for (const auto& weight : weights) {
      static_cast<void>(weight.gather(calling_thread));
      auto gradient = weight.gradient(calling_thread);
      for (std::size_t i = 0; i < elements; ++i) gradient->data[i] = bfloat16{0.5F};
      gradient.commit();
    }
  }
  engine.step();
}

/// What each rank receives in the second of two steps.
/// @param join Called as `join(within, across, device)`, makes the engine's communicator.
template <class Join>
std::vector<Traffic> traffic(std::size_t micro_batches, bool keeps_copies, Join join) {
  return zerospan::run_ranks(ranks, [&](ThreadCommunicator threads) {
    auto levels = zerospan::split_into_groups(threads, ranks_per_group);
    Counted within{std::move(levels.within)};
    Counted across{std::move(levels.across)};
    zerospan::HostDevice device{{.device_budget = 4_MiB, .host_budget = 4_MiB}};
    auto communicator = join(within.duplicate(), across.duplicate(), device);
    zerospan::DeviceTier tier{device};
    zerospan::Placement placement{tier, tier, tier};
    if (keeps_copies) placement.group_copies = tier;
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                communicator,
                                device,
                                placement,
                                zerospan::AdamW{},
                                {.micro_batches = micro_batches, .persistence_threshold = 0_KiB, .prefetch = 0_KiB}};
    std::vector<zerospan::PartitionedParameter<Tensor>> weights;
    for (std::size_t l = 0; l < layers; ++l) {
      weights.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{elements}, zerospan::init::normal(1));
    }
    train_step(engine, weights, micro_batches);
    const Traffic before{within.received().count, across.received().count};
    train_step(engine, weights, micro_batches);
    return Traffic{within.received().count - before.within, across.received().count - before.across};
  });
}

/// Checks what all ranks of a group receive together, in units of the parameters' bytes.
/// @param across Of what comes from the other groups. @param within Of what comes from the other ranks of a group.
void check(const std::vector<Traffic>& received, std::size_t within, std::size_t across) {
  for (const Traffic& rank : received) {
    CHECK(rank.across * ranks_per_group == across * psi * (groups - 1) / groups);
    CHECK(rank.within * ranks_per_group == within * psi * (ranks_per_group - 1));
  }
}

constexpr auto grouped = [](Counted within, Counted across, zerospan::HostDevice&) {
  return zerospan::GroupedCommunicator{zerospan::CommunicatorLevels<Counted>{std::move(within), std::move(across)}};
};
constexpr auto hybrid = [](Counted within, Counted across, zerospan::HostDevice&) {
  return zerospan::HybridCommunicator{zerospan::CommunicatorLevels<Counted>{std::move(within), std::move(across)}};
};
constexpr auto quantized = [](Counted within, Counted across, zerospan::HostDevice& device) {
  using Across = zerospan::QuantizedCommunicator<Counted, zerospan::HostDevice>;
  return zerospan::GroupedCommunicator{zerospan::CommunicatorLevels<Counted, Across>{
      std::move(within), Across{std::move(across),
                                device,
                                {.gather = QuantizedType::int8, .reduce = QuantizedType::int4, .scratch = 64_KiB}}}};
};

TEST_CASE("stage 3 moves 3 psi over either level: a gather in forward, one in backward, a reduce-scatter") {
  check(traffic(1, false, grouped), 3, 3);
  check(traffic(4, false, grouped), 12, 12);
}

TEST_CASE("with group copies 2 psi go across groups: a gather a step, a reduce-scatter a micro-batch") {
  check(traffic(1, true, grouped), 3, 2);
  check(traffic(4, true, grouped), 12, 5);
}

TEST_CASE("with hybrid sharding 2 psi go across groups: an all-reduce of each shard") {
  check(traffic(1, false, hybrid), 3, 2);
}

TEST_CASE(
    "quantized across groups, with copies, it is 0.75 psi: half a gather, a quarter of a reduce-scatter, scales") {
  constexpr std::size_t scales = psi / sizeof(bfloat16) / zerospan::quantized_block_elements * sizeof(float);
  for (const Traffic& rank : traffic(1, true, quantized)) {
    CHECK(rank.across * ranks_per_group == (psi / 2 + scales + psi / 4 + scales) * (groups - 1) / groups);
    CHECK(rank.within * ranks_per_group == 3 * psi * (ranks_per_group - 1));
  }
}

TEST_CASE("group copies need groups, stage 3 and slices") {
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::DeviceTier tier{device};
  const zerospan::Placement placement{.parameters = tier, .gradients = tier, .optimizer = tier, .group_copies = tier};
  const auto refuses = [&](auto stage, auto& communicator, const zerospan::EngineOptions& options) {
    CHECK_THROWS_AS((zerospan::ZeroEngine{stage, communicator, device, placement, zerospan::AdamW{}, options}),
                    zerospan::ConfigurationError);
  };
  zerospan::SelfCommunicator self;
  zerospan::GroupedCommunicator alone{zerospan::split_into_groups(self, 1)};
  refuses(zerospan::Stage3{}, self, {});
  refuses(zerospan::Stage2{}, alone, {});
  refuses(zerospan::Stage3{}, alone, {.partition = zerospan::Owners{}});
}

TEST_CASE("ranks that are no whole groups are refused") {
  zerospan::SelfCommunicator self;
  CHECK_THROWS_AS(static_cast<void>(zerospan::split_into_groups(self, 2)), zerospan::ConfigurationError);
  CHECK_THROWS_AS(static_cast<void>(zerospan::split_into_groups(self, 0)), zerospan::ConfigurationError);
}

}  // namespace
