#include "paper_step.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "paper_ghost.hpp"

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
      : model_{model}, device_{device}, sharing_{sharing}, stack_{stack} {}

  /// hd x hd matrices, twelve a layer: three for queries, keys and values, one behind attention, four up, four down.
  template <class Engine>
  void declare(Engine& engine) {
    const std::size_t share = model_.hidden / static_cast<std::size_t>(model_.model_parallel);
    for (std::size_t i = 0; i < model_.layers * matrices; ++i) {
      weights_.emplace_back(engine, "matrix " + std::to_string(i), zerospan::Shape{share, model_.hidden},
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
      for (std::size_t i = matrices; i-- > 0;) {
        if (i == last_up || i == matrices - 1) after_shared_product();
        if (i == last_of_attention) attention(2);
        const auto& weight = weights_[layer * matrices + i];
        const auto full = weight.gather(device_.stream());
        auto gradient = weight.gradient(device_.stream());
        device_.compute("gradient of inputs", sim::matrix_product(tokens(), model_.hidden, width()));
        device_.compute("gradient of weights", sim::matrix_product(width(), model_.hidden, tokens()));
        gradient.commit();
      }
      pointwise(2);
    }
  }

 private:
  static constexpr std::size_t matrices = 12;
  static constexpr std::size_t last_of_attention = 2;
  static constexpr std::size_t last_up = 3;  ///< Of the first half of a layer, whose outputs its GPUs sum.

  /// Those that share a layer have their sequences in common.
  std::size_t tokens() const {
    return static_cast<std::size_t>(model_.tokens() * static_cast<double>(model_.model_parallel));
  }
  std::size_t tokens_of_gpu() const { return static_cast<std::size_t>(model_.tokens()); }
  std::size_t width() const { return model_.hidden / static_cast<std::size_t>(model_.model_parallel); }

  void forward(std::size_t layer) {
    for (std::size_t i = 0; i < matrices; ++i) {
      {
        const auto full = weights_[layer * matrices + i].gather(device_.stream());
        device_.compute("product", sim::matrix_product(tokens(), width(), model_.hidden));
      }
      if (i == last_of_attention) attention(1);
      if (i == last_up || i == matrices - 1) after_shared_product();
    }
    pointwise(1);
  }

  /// Scores, and the sum of values by them, of all heads: not in the paper's count.
  void attention(int times) {
    const std::size_t rows = tokens() * model_.heads / static_cast<std::size_t>(model_.model_parallel);
    const std::size_t of_head = model_.hidden / model_.heads;
    for (int i = 0; i < times; ++i) {
      device_.compute("scores", sim::matrix_product(rows, model_.sequence, of_head));
      device_.compute("values", sim::matrix_product(rows, of_head, model_.sequence));
    }
  }

  /// What a layer leaves in memory is written once and read once.
  void pointwise(int times) {
    device_.compute("pointwise", sim::Work{2.0 * times * bytes_of_activations(model_, model_.batch)});
  }

  /// Where GPUs share a layer, they add up what it puts out.
  void after_shared_product() {
    const std::size_t elements = tokens() * model_.hidden;
    sharing_.all_reduce(zerospan::Collective{device_.stream(), "shared product"},
                        {zerospan::ElementType::bfloat16, nullptr, zerospan::ElementType::bfloat16, nullptr, elements});
  }

  Model model_;
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
  sim::Device device{cluster,
                     rank,
                     {.device_budget = to_bytes(device_bytes - framework_bytes - working),
                      .host_budget = to_bytes(host_bytes),
                      .compute = training.gpu}};
  zerospan::DeviceTier gpu{device};
  zerospan::HostTier cpu{device};
  sim::Tier nvme{device, {.name = "NVMe", .capacity = to_bytes(disk_bytes)}};
  const auto tier = [&](Place place) {
    if (place == Place::gpu) return zerospan::TierRef{gpu};
    if (place == Place::cpu) return zerospan::TierRef{cpu};
    return zerospan::TierRef{nvme};
  };

  const double checkpoint = bytes_of_checkpoints(model, model.batch) / model.nl();
  zerospan::ActivationCheckpoints stack{
      device,
      tier(place_of_checkpoints(model)),
      {.bytes = to_bytes(model.nl() * (checkpoint + 4096)), .device_bytes = to_bytes(4 * (checkpoint + 64))}};

  sim::Communicator world{cluster, rank};
  auto [sharing, across] = sim::split_into_groups(world, model.model_parallel);
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              across,
                              device,
                              zerospan::Placement{.parameters = tier(training.parameters),
                                                  .gradients = tier(training.optimizer),
                                                  .optimizer = tier(training.optimizer)},
                              zerospan::AdamW{},
                              zerospan::EngineOptions{.staging = 8_GiB}};
  Layers layers{model, device, sharing, stack};
  layers.declare(engine);
  engine.begin(zerospan::Pass::training);
  for (int step = 0; step < steps; ++step) {
    device.compute("step begins", 0);
    layers.forward();
    layers.backward();
    engine.step();
    if (training.order == Order::step_by_itself) engine.synchronize();
  }
  device.compute("step begins", 0);
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
