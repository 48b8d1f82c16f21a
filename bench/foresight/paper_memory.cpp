#include "paper_memory.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/zerospan.hpp>

#include "paper_cluster.hpp"
#include "paper_ghost.hpp"
#include "paper_machine.hpp"

namespace paper {
namespace {

namespace sim = zerospan::sim;
using namespace zerospan::literals;

/// Bytes of the GPU's memory that the engine has not.
double allowances_of(const Strategy& strategy, const Model& model) {
  const double checkpoints = strategy.checkpoints == Place::gpu ? bytes_of_checkpoints(model, model.batch) : 0;
  return framework_bytes + bytes_of_activations(model, model.batch) + checkpoints;
}

double host_allowances_of(const Strategy& strategy, const Model& model) {
  return framework_bytes + (strategy.checkpoints == Place::cpu ? bytes_of_checkpoints(model, model.batch) : 0);
}

/// What rests where, of one rank.
struct Reserved {
  double device = 0;
  double host = 0;
  double disk = 0;
};

template <class Stage>
Reserved reserve(Stage stage, const Strategy& strategy, const Model& model) {
  sim::Cluster cluster{topology(1, {}), {.simulate = sim::Simulate::one_of_equals}};
  const double device_budget = device_bytes - allowances_of(strategy, model);
  const double host_budget = host_bytes - host_allowances_of(strategy, model);
  if (device_budget < 0 || host_budget < 0) {
    zerospan::throw_budget_error("activations and a framework", zerospan::Bytes{0}, zerospan::Bytes{0}, "fewer layers");
  }
  Machine machine{cluster, zerospan::Rank{0}, device_budget, host_budget};
  sim::Device& device = machine.device;
  zerospan::ZeroEngine engine{stage,
                              machine.world,
                              device,
                              machine.placement(strategy.parameters, strategy.gradients, strategy.optimizer),
                              zerospan::AdamW{},
                              zerospan::EngineOptions{.staging = 1_GiB}};
  std::vector<zerospan::PartitionedParameter<Ghost>> weights;
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    const std::string of = std::to_string(layer);
    for (const std::size_t times : {std::size_t{3}, std::size_t{1}, std::size_t{4}, std::size_t{4}}) {
      weights.emplace_back(engine, of + "." + std::to_string(weights.size()),
                           zerospan::Shape{times * model.hidden, model.hidden}, zerospan::init::zeros());
    }
  }
  engine.begin(zerospan::Pass::training);
  const auto& largest = weights.back();
  const auto full = largest.gather(device.stream());
  auto gradient = largest.gradient(device.stream());
  gradient.commit();
  return {.device = static_cast<double>(device.memory().peak().count),
          .host = static_cast<double>(device.host_memory().peak().count),
          .disk = static_cast<double>(machine.nvme.counters().peak.count)};
}

Reserved reserve(const Strategy& strategy, const Model& model) {
  if (strategy.stage == 0) return reserve(zerospan::Stage0{}, strategy, model);
  if (strategy.stage == 2) return reserve(zerospan::Stage2{}, strategy, model);
  return reserve(zerospan::Stage3{}, strategy, model);
}

/// The most of [0, end) for which `fits`, of which 0 is one.
template <class Fits>
std::size_t most(std::size_t end, Fits fits) {
  std::size_t low = 0;
  while (end - low > 1) {
    const std::size_t middle = low + (end - low) / 2;
    (fits(middle) ? low : end) = middle;
  }
  return low;
}

bool fits_in_pieces(std::size_t hidden, std::size_t tiles) {
  constexpr std::size_t pieces = 16;
  constexpr std::size_t piece = std::size_t{2} << 30;
  constexpr std::size_t pin = zerospan::Arena::alignment;
  sim::Cluster cluster{topology(1, {}), {.simulate = sim::Simulate::one_of_equals}};
  Machine machine{cluster, zerospan::Rank{0}, static_cast<double>(pieces * (piece + pin)), host_bytes};
  sim::Device& device = machine.device;
  std::vector<zerospan::Allocation> between;
  {
    std::vector<zerospan::Allocation> free;
    for (std::size_t i = 0; i < pieces; ++i) {
      free.push_back(device.memory().allocate(zerospan::Bytes{piece}, "a piece"));
      between.push_back(device.memory().allocate(zerospan::Bytes{pin}, "what lies between pieces"));
    }
  }
  try {
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                machine.world,
                                device,
                                machine.placement(Place::nvme, Place::nvme, Place::nvme),
                                zerospan::AdamW{},
                                zerospan::EngineOptions{.staging = 1_GiB}};
    const zerospan::TiledLinear<Ghost> up{
        engine, "up", {.outputs = 4 * hidden, .inputs = hidden}, {.outputs = tiles}, zerospan::init::zeros()};
    engine.begin(zerospan::Pass::training);
    for (const auto& part : up.parts()) {
      const auto full = part.weight.gather(device.stream());
      auto gradient = part.weight.gradient(device.stream());
      gradient.commit();
    }
    return true;
  } catch (const zerospan::BudgetError&) {
    return false;
  }
}

}  // namespace

Largest largest_model(const Strategy& strategy, const Model& model) {
  constexpr std::size_t more_than_any = 2048;
  std::string beyond;
  const auto with = [&](std::size_t layers) {
    Model deeper = model;
    deeper.layers = layers;
    return deeper;
  };
  const std::size_t layers = most(more_than_any, [&](std::size_t count) {
    try {
      reserve(strategy, with(count));
      return true;
    } catch (const zerospan::BudgetError& error) {
      beyond = error.what();
      return false;
    }
  });
  const Model found = with(layers);
  Largest largest{.model = found,
                  .parameters = found.parameters(),
                  .device = 0,
                  .host = 0,
                  .disk = 0,
                  .allowances = allowances_of(strategy, found),
                  .beyond = beyond};
  if (layers > 0) {
    const Reserved reserved = reserve(strategy, found);
    largest.device = reserved.device;
    largest.host = reserved.host;
    largest.disk = reserved.disk;
  }
  return largest;
}

double largest_by_formula(const Strategy& strategy, const Model& model) {
  constexpr std::size_t more_than_any = 2048;
  const std::size_t layers = most(more_than_any, [&](std::size_t count) {
    Model deeper = model;
    deeper.layers = count;
    double device = allowances_of(strategy, deeper);
    double host = host_allowances_of(strategy, deeper);
    double disk = 0;
    const auto add = [&](Place place, double bytes, bool is_partitioned) {
      const double share = bytes * deeper.parameters() / (is_partitioned ? gpus_of_node : 1);
      (place == Place::gpu ? device : place == Place::cpu ? host : disk) += share;
    };
    add(strategy.parameters, 2, strategy.stage == 3);
    add(strategy.gradients, 2, strategy.stage >= 2);
    add(strategy.optimizer, 16, strategy.stage >= 1);
    if (strategy.stage == 3) device += bytes_of_largest_layer(deeper);
    return device <= device_bytes && host <= host_bytes && disk <= disk_bytes;
  });
  Model found = model;
  found.layers = layers;
  return found.parameters();
}

std::size_t widest_layer(std::size_t tiles, std::size_t step) {
  constexpr std::size_t wider_than_any = 256 * 1024;
  return step * most(wider_than_any / step, [&](std::size_t count) { return fits_in_pieces(step * count, tiles); });
}

}  // namespace paper
