/// @file
/// The plan of the examples' GPT, beside its training.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/plan/footprint.hpp>
#include <zerospan/plan/gpt.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

#include "gpt/cpu_math.hpp"
#include "gpt/model.hpp"
#include "gpt/zerospan_adapter.hpp"
#include "support/footprint.hpp"
#include "support/scratch.hpp"

namespace {

namespace plan = zerospan::plan;
using namespace zerospan::literals;
using plan::MicroBatches;
using plan::Place;

constexpr gpt::Dimensions in_tiles(std::size_t tiles) {
  return {.layers = 3, .heads = 2, .width = 48, .context = 16, .tiles = tiles};
}

constexpr std::size_t batch = 2;
constexpr std::size_t steps = 3;

plan::Setting setting(MicroBatches order, zerospan::Bytes device_budget) {
  return {.placing = {Place::nvme, Place::host, Place::nvme},
          .device_budget = device_budget,
          .host_budget = 2_MiB,
          .options = {.micro_batches = 2,
                      .persistence_threshold = 1_KiB,
                      .prefetch = 100_KiB,
                      .staging = 512_KiB,
                      .sub_group_elements = 4096},
          .micro_batches = order};
}

/// What the training of the example takes.
plan::Footprint train(const gpt::Dimensions& dimensions, const plan::Setting& s, const std::string& directory) {
  using Math = gpt::CpuMath<float>;
  using Parameter = zerospan::PartitionedParameter<gpt::Tensor<float>>;
  zerospan::ThreadedIoEngine io;
  zerospan::HostDevice device{{.device_budget = s.device_budget, .host_budget = s.host_budget}};
  zerospan::HostTier host{device};
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk{io, {.directory = directory}};
  zerospan::SelfCommunicator self;
  zerospan::Timeline timeline;
  zerospan::EngineOptions options = s.options;
  options.timeline = &timeline;
  zerospan::ZeroEngine engine{
      zerospan::Stage3{}, self,   device, zerospan::Placement{.parameters = disk, .gradients = host, .optimizer = disk},
      zerospan::AdamW{},  options};
  Math math{dimensions};
  gpt::Model<Parameter, Math> model{engine, math, dimensions};
  std::deque<gpt::Activations<Math>> activations;
  std::deque<gpt::ActivationGradients<Math>> gradients;
  for (std::size_t m = 0; m < s.options.micro_batches; ++m) {
    activations.emplace_back(math, dimensions, batch, dimensions.layers);
    gradients.emplace_back(math, dimensions, batch);
  }
  const std::vector<std::uint8_t> tokens(batch * dimensions.context, 7);
  const gpt::Batch data{tokens, tokens, dimensions.context};
  engine.begin(zerospan::Pass::training);
  for (std::size_t step = 0; step < steps; ++step) {
    std::vector<gpt::MicroBatch<Math>> all;
    for (std::size_t m = 0; m < s.options.micro_batches; ++m) all.push_back({data, &activations[m], &gradients[m]});
    if (s.micro_batches == MicroBatches::layer_by_layer) {
      model.train(all);
    } else {
      for (const gpt::MicroBatch<Math>& each : all) {
        engine.begin(zerospan::Pass::training);
        model.train(std::array{each});
      }
    }
    model.take_loss();
    engine.step();
  }
  engine.synchronize();
  plan::Footprint seen = zerospan_test::footprint_of(engine, device, disk.counters());
  seen.all_steps = zerospan_test::operations_of(timeline);
  return seen;
}

TEST_CASE("the plan of the examples' GPT is that of its training, to the byte") {
  const zerospan_test::ScratchDirectory scratch;
  zerospan::ThreadedIoEngine io;
  const std::size_t alignment =
      zerospan::NvmeTier<zerospan::ThreadedIoEngine>{io, {.directory = scratch.path()}}.alignment();
  for (const std::size_t tiles : {std::size_t{1}, std::size_t{2}, std::size_t{5}}) {
    const gpt::Dimensions dimensions = in_tiles(tiles);
    const plan::Model model = plan::example_gpt({.layers = dimensions.layers,
                                                 .hidden = dimensions.width,
                                                 .vocabulary = gpt::Dimensions::vocabulary,
                                                 .sequence = dimensions.context,
                                                 .batch = batch,
                                                 .type = zerospan::ElementType::float32,
                                                 .tiles = tiles});
    CHECK(model.elements() == dimensions.parameters());
    for (const auto& [order, device_budget] :
         {std::pair{MicroBatches::in_passes, 200_KiB}, std::pair{MicroBatches::in_passes, 1_MiB},
          std::pair{MicroBatches::layer_by_layer, 200_KiB}, std::pair{MicroBatches::layer_by_layer, 1_MiB}}) {
      CAPTURE(tiles);
      CAPTURE(static_cast<int>(order));
      CAPTURE(device_budget.count);
      plan::Setting s = setting(order, device_budget);
      const plan::Footprint seen = train(dimensions, s, scratch.path());
      s.disk.alignment = alignment;
      zerospan_test::check_same_footprint(plan::bytes_of(model, s, zerospan::Rank{}, steps), seen);
    }
  }
}

}  // namespace
