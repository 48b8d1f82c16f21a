/// @file
/// A plan of linear layers in tiles, beside TiledLinear on a real engine.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/plan/footprint.hpp>
#include <zerospan/plan/linear.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/tiling/tiled_linear.hpp>
#include <zerospan/zerospan.hpp>

#include "support/footprint.hpp"
#include "support/scratch.hpp"
#include "support/toy_model.hpp"

namespace {

namespace plan = zerospan::plan;
using namespace zerospan::literals;
using plan::Place;
using zerospan::calling_thread;
using zerospan::Tile;
using zerospan_test::RuntimeArray;
using Linear = zerospan::TiledLinear<RuntimeArray>;

constexpr std::size_t steps = 3;
constexpr std::array<zerospan::LinearExtents, 3> extents{{{96, 40}, {53, 96}, {24, 53}}};
constexpr auto type = zerospan::ElementType::bfloat16;

void clear(RuntimeArray& array) { std::memset(array.data, 0, array.size * zerospan::element_bytes(array.type)); }

plan::Setting setting() {
  return {.placing = {Place::nvme, Place::host, Place::nvme},
          .device_budget = 60_KiB,
          .host_budget = 1_MiB,
          .options = {.micro_batches = 2,
                      .persistence_threshold = zerospan::Bytes{256},
                      .prefetch = 8_KiB,
                      .staging = 128_KiB,
                      .sub_group_elements = 2048}};
}

std::string name_of(std::size_t layer) { return "layer " + std::to_string(layer); }

plan::Model planned(zerospan::TileCounts tiles, plan::Bias bias) {
  plan::Model model;
  std::vector<plan::DeclaredLinear> layers;
  for (std::size_t l = 0; l < extents.size(); ++l) {
    layers.emplace_back(
        model, plan::LinearLayer{
                   .name = name_of(l), .extents = extents[l], .tiles = tiles, .type = type, .bias = bias, .rows = 7});
  }
  for (const plan::DeclaredLinear& layer : layers) {
    for (const plan::PassStep& step : layer.forward()) model.forward.push_back(step);
  }
  for (std::size_t l = layers.size(); l-- > 0;) {
    for (const plan::PassStep& step : layers[l].backward()) model.backward.push_back(step);
  }
  return model;
}

/// What a training takes, and the parameters that it has declared.
struct Seen {
  plan::Footprint footprint{};
  std::vector<std::string> names{};
};

Seen train(zerospan::TileCounts tiles, plan::Bias bias, const plan::Setting& s, const std::string& directory) {
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
  std::optional<zerospan::LinearBias> with_bias;
  if (bias == plan::Bias::of_outputs) with_bias.emplace();
  std::vector<Linear> layers;
  for (std::size_t l = 0; l < extents.size(); ++l) {
    layers.emplace_back(engine, name_of(l), extents[l], tiles, type, zerospan::init::zeros(),
                        zerospan::ParameterOptions{}, with_bias);
  }
  for (std::size_t step = 0; step < steps; ++step) {
    for (std::size_t m = 0; m < s.options.micro_batches; ++m) {
      engine.begin(zerospan::Pass::training);
      const auto nothing = [](const auto&...) {};
      for (const Linear& layer : layers) layer.forward(calling_thread, nothing, nothing);
      for (std::size_t l = layers.size(); l-- > 0;) {
        layers[l].backward(
            calling_thread, nothing, [](const Tile&, RuntimeArray& gradient) { clear(gradient); },
            [](RuntimeArray& gradient) { clear(gradient); });
      }
    }
    engine.step();
  }
  engine.synchronize();
  Seen seen{zerospan_test::footprint_of(engine, device, disk.counters()), {}};
  seen.footprint.all_steps = zerospan_test::operations_of(timeline);
  engine.for_each_master([&](std::string_view parameter, std::uint64_t, std::span<const float>) {
    if (seen.names.empty() || seen.names.back() != parameter) seen.names.emplace_back(parameter);
  });
  return seen;
}

TEST_CASE("a layer in tiles takes in a plan what it takes in training, to the byte") {
  const zerospan_test::ScratchDirectory scratch;
  std::size_t alignment = 0;
  {
    zerospan::ThreadedIoEngine io;
    alignment = zerospan::NvmeTier<zerospan::ThreadedIoEngine>{io, {.directory = scratch.path()}}.alignment();
  }
  using Tiles = zerospan::TileCounts;
  for (const Tiles tiles : {Tiles{1, 1}, Tiles{3, 1}, Tiles{1, 4}, Tiles{5, 3}}) {
    for (const plan::Bias bias : {plan::Bias::none, plan::Bias::of_outputs}) {
      CAPTURE(tiles.outputs);
      CAPTURE(tiles.inputs);
      CAPTURE(static_cast<int>(bias));
      plan::Setting s = setting();
      s.disk.alignment = alignment;
      const plan::Model model = planned(tiles, bias);
      const plan::Footprint expected = plan::bytes_of(model, s, zerospan::Rank{}, steps);
      const Seen seen = train(tiles, bias, s, scratch.path());
      zerospan_test::check_same_footprint(expected, seen.footprint);
      std::vector<std::string> names;
      for (const plan::Parameter& parameter : model.parameters) names.push_back(parameter.name);
      CHECK(names == seen.names);
    }
  }
}

TEST_CASE("tiles take less memory, and leave elements and operations as they are") {
  const auto flops = [](const plan::Model& model) {
    double sum = 0;
    for (const auto* pass : {&model.forward, &model.backward}) {
      for (const plan::PassStep& step : *pass) sum += step.flops;
    }
    return sum;
  };
  const plan::Model whole = planned({1, 1}, plan::Bias::of_outputs);
  const plan::Model tiled = planned({4, 2}, plan::Bias::of_outputs);
  CHECK(tiled.elements() == whole.elements());
  std::size_t weights = 0;
  for (const auto& [outputs, inputs] : extents) weights += outputs * inputs;
  CHECK(flops(whole) == 3 * 2 * 7 * static_cast<double>(weights));
  CHECK(flops(tiled) == flops(whole));
  const auto least = [](const plan::Model& model) {
    return plan::needs_of(model, setting()).least.device_backward.count;
  };
  CHECK(least(tiled) < least(whole));
}

TEST_CASE("what cannot be cut is refused") {
  plan::Model model;
  CHECK_THROWS_WITH_AS((plan::DeclaredLinear{model, {.name = "up", .extents = {4, 8}, .tiles = {.outputs = 5}}}),
                       "the 4 outputs of up cannot be cut into 5 tiles", zerospan::ConfigurationError);
  CHECK_THROWS_AS((plan::DeclaredLinear{model, {.name = "up", .extents = {4, 8}, .tiles = {.outputs = 0}}}),
                  zerospan::ConfigurationError);
}

}  // namespace
