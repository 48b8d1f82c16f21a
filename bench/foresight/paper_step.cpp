#include "paper_step.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/zerospan.hpp>

#include "paper_ghost.hpp"
#include "paper_layer.hpp"
#include "paper_machine.hpp"

namespace paper {
namespace {

namespace sim = zerospan::sim;
using namespace zerospan::literals;
using zerospan::OperationKind;

constexpr int steps = 3;

/// One GPU's part of the model, layer by layer.
class Layers {
 public:
  Layers(const Model& model, sim::Device& device, sim::Communicator& sharing, zerospan::ActivationCheckpoints& stack)
      : model_{model}, of_{model}, device_{device}, sharing_{sharing}, stack_{stack} {}

  template <class Engine>
  void declare(Engine& engine) {
    for (std::size_t i = 0; i < model_.layers * Layer::matrices; ++i) {
      weights_.emplace_back(engine, "matrix " + std::to_string(i), zerospan::Shape{of_.width(), model_.hidden},
                            zerospan::init::zeros());
    }
  }

  void forward() {
    for (std::size_t layer = 0; layer < model_.layers; ++layer) {
      auto saved = stack_.push<Ghost>(device_.stream(), {tokens_of_gpu(), model_.hidden});
      saved.commit();
      forward(layer);
    }
  }

  void backward() {
    for (std::size_t layer = model_.layers; layer-- > 0;) {
      const auto saved = stack_.pop<Ghost>(device_.stream());
      forward(layer);
      for (std::size_t i = Layer::matrices; i-- > 0;) {
        if (ends_a_half(i)) add_up_outputs();
        if (i == Layer::last_of_queries) attention(2);
        const auto& weight = weights_[layer * Layer::matrices + i];
        const auto full = weight.gather(device_.stream());
        auto gradient = weight.gradient(device_.stream());
        device_.compute("gradient of inputs", of_.gradient_of_input(i));
        device_.compute("gradient of weights", of_.gradient_of_weight(i));
        gradient.commit();
      }
      device_.compute("beside products", of_.beside_backward());
    }
  }

 private:
  std::size_t tokens_of_gpu() const { return static_cast<std::size_t>(model_.tokens()); }

  void forward(std::size_t layer) {
    for (std::size_t i = 0; i < Layer::matrices; ++i) {
      {
        const auto full = weights_[layer * Layer::matrices + i].gather(device_.stream());
        device_.compute("product", of_.output(i));
      }
      if (i == Layer::last_of_queries) attention(1);
      if (ends_a_half(i)) add_up_outputs();
    }
    device_.compute("beside products", of_.beside_forward());
  }

  void attention(int times) {
    for (int i = 0; i < times; ++i) {
      device_.compute("scores", of_.scores());
      device_.compute("values", of_.values());
    }
  }

  /// Behind attention and behind a layer the GPUs that share it add up what they put out.
  static bool ends_a_half(std::size_t matrix) {
    return matrix == Layer::last_of_attention || matrix == Layer::matrices - 1;
  }

  void add_up_outputs() {
    const std::size_t elements = of_.tokens() * model_.hidden;
    sharing_.all_reduce(zerospan::Collective{device_.stream(), "shared product"},
                        {zerospan::ElementType::bfloat16, nullptr, zerospan::ElementType::bfloat16, nullptr, elements});
  }

  Model model_;
  Layer of_;
  sim::Device& device_;
  sim::Communicator& sharing_;
  zerospan::ActivationCheckpoints& stack_;
  std::vector<zerospan::PartitionedParameter<Ghost>> weights_;
};

/// Of a rank, alone on its links, while all others do the same. (Copies within a GPU take less.)
double seconds_alone(const sim::Event& event, const Training& training) {
  const Hardware& hardware = training.hardware;
  const auto bytes = static_cast<double>(event.bytes);
  switch (event.kind) {
    case OperationKind::compute:
      return event.end - event.begin;
    case OperationKind::read:
    case OperationKind::write:
      return bytes / hardware.disk;
    case OperationKind::copy:
      return bytes / hardware.to_host;
    case OperationKind::all_gather:
    case OperationKind::reduce_scatter:
    case OperationKind::all_reduce: {
      const double between = training.nodes > 1 ? bytes * training.model.model_parallel / hardware.between_nodes : 0;
      return std::max(bytes / hardware.between_gpus, between);
    }
    case OperationKind::update:
    case OperationKind::accumulate:
    case OperationKind::fill: {
      const double memory =
          training.optimizer == Place::gpu ? hardware.device_memory : hardware.host_memory / gpus_of_node;
      return 2.5 * bytes / memory;
    }
    default:
      return 0;
  }
}

void run_rank(sim::Cluster& cluster, zerospan::Rank rank, const Training& training) {
  const Model& model = training.model;
  const double working = bytes_of_activations(model, model.batch);
  Machine machine{cluster, rank, device_bytes - framework_bytes - working, host_bytes, training.gpu};

  const double checkpoint = bytes_of_checkpoints(model, model.batch) / model.nl();
  zerospan::ActivationCheckpoints stack{
      machine.device,
      machine.tier(place_of_checkpoints(model)),
      {.bytes = to_bytes(model.nl() * (checkpoint + 4096)), .device_bytes = to_bytes(4 * (checkpoint + 64))}};

  auto [sharing, across] = sim::split_into_groups(machine.world, model.model_parallel);
  const auto placement = machine.placement(training.parameters, training.optimizer, training.optimizer);
  const zerospan::EngineOptions options{.staging = 8_GiB};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, across, machine.device, placement, zerospan::AdamW{}, options};
  Layers layers{model, machine.device, sharing, stack};
  layers.declare(engine);
  engine.begin(zerospan::Pass::training);
  for (int step = 0; step < steps; ++step) {
    machine.device.compute("step begins", 0);
    layers.forward();
    layers.backward();
    engine.step();
    if (training.order == Order::step_by_itself) engine.synchronize();
  }
  machine.device.compute("step begins", 0);
}

}  // namespace

StepTime step_time(const Training& training) {
  sim::Cluster cluster{topology(training.nodes, training.hardware),
                       {.simulate = sim::Simulate::one_of_equals, .ranks_per_group = training.model.model_parallel}};
  for (const zerospan::Rank rank : cluster.ranks()) run_rank(cluster, rank, training);

  const sim::Schedule schedule = cluster.resolve();
  std::vector<double> begins;
  for (const sim::Event& event : schedule) {
    if (event.name == "step begins" && event.rank.value == 0) begins.push_back(event.begin);
  }
  const double from = begins.at(steps - 1);
  const double to = begins.at(steps);
  StepTime time{.step = to - from, .compute = 0, .all_lanes = 0};
  for (const sim::Event& event : schedule) {
    if (event.rank.value != 0 || event.end <= from || event.end > to) continue;
    const double seconds = std::min(event.end - event.begin, seconds_alone(event, training));
    time.all_lanes += seconds;
    if (event.kind == OperationKind::compute) time.compute += seconds;
  }
  return time;
}

}  // namespace paper
