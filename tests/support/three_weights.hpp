/// @file
/// A training of three small parameters that takes milliseconds: what faults are injected into.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "toy_model.hpp"
#include "training_run.hpp"

namespace zerospan_test {

struct ThreeWeightsOptions {
  std::chrono::milliseconds timeout = std::chrono::seconds{30};  ///< Of the engine's waits.
  std::function<void()> between{};                               ///< Called between the two steps, if there is one.
};

/// Trains for two steps of two micro-batches. @return a hash of the master weights.
template <class Stage, class Communicator>
std::uint64_t train_three_weights(Stage stage, Communicator& communicator, zerospan::HostDevice& device,
                                  const zerospan::Placement& placement, const ThreeWeightsOptions& options = {}) {
  using Parameter = zerospan::PartitionedParameter<Array<float>>;
  zerospan::ZeroEngine engine{
      stage,
      communicator,
      device,
      placement,
      zerospan::AdamW{},
      zerospan::EngineOptions{
          .micro_batches = 2, .persistence_threshold = zerospan::Bytes{0}, .timeout = options.timeout}};
  std::vector<Parameter> weights;
  for (const std::size_t size : {1000U, 5000U, 3000U}) {
    weights.emplace_back(engine, std::string{"w"} + std::to_string(size), zerospan::Shape{size},
                         zerospan::init::normal(1));
  }
  for (int step = 0; step < 2; ++step) {
    if (step == 1 && options.between) {
      engine.synchronize();  // or the first step's updates may change what is there afterwards
      options.between();
    }
    for (int micro = 0; micro < 2; ++micro) {
      for (const Parameter& weight : weights) {
        const auto full = weight.gather(zerospan::calling_thread);
        auto gradient = weight.gradient(zerospan::calling_thread);
        for (std::size_t k = 0; k < full->size; ++k) gradient->data[k] = full->data[k];
        gradient.commit();
      }
    }
    engine.step();
  }
  return hash_masters(engine);
}

/// The same without a disk and without partitions: what every other way must come to.
inline std::uint64_t train_three_weights_in_memory() {
  constexpr zerospan::Bytes budget{std::size_t{1} << 20};
  zerospan::HostDevice device{{.device_budget = budget, .host_budget = budget}};
  zerospan::DeviceTier tier{device};
  zerospan::SelfCommunicator self;
  return train_three_weights(zerospan::Stage0{}, self, device, {tier, tier, tier});
}

}  // namespace zerospan_test
