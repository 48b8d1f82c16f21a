/// @file
/// A step of a trillion parameters on one node of 16 GPUs, in virtual time: what hides of an optimizer step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "ghost.hpp"

namespace zerospan_test {

/// The node of ZeRO-Infinity (arXiv 2104.07857): 16 GPUs, whose share of the node's NVMe is 1.6 GB/s each way.
inline constexpr double disk_rate = 25.6e9;
inline constexpr zerospan::sim::Topology dgx2{
    .ranks_per_node = 16,
    .within = {.bytes_per_second = 70e9},
    .host_link = {.to_device = {3e9}, .to_host = {3e9}},
    .disk = {.read = disk_rate, .write = disk_rate, .scope = zerospan::sim::Scope::node},
    .host_memory = {.bytes_per_second = 200e9},
    .device_memory = {.bytes_per_second = 800e9},
    .flops_per_second = 1};

inline constexpr double forward_seconds = 205;  // of a pass; a backward pass takes twice as long

struct TrillionTraining {
  zerospan::UpdateTime updates = zerospan::UpdateTime::after_step;
  double early_share = zerospan::EngineOptions{}.early_share;
};

struct StepTimes {
  double step = 0;
  double reads = 0;   ///< Of the disk: bytes of the node by its rate.
  double writes = 0;  ///< Likewise.

  double busiest() const { return std::max({3 * forward_seconds, reads, writes}); }
};

/// Of a trillion parameters in 16 bits, with everything on disk: a step in the middle of a training.
inline StepTimes step_of_a_trillion(const TrillionTraining& training) {
  namespace sim = zerospan::sim;
  constexpr std::size_t depth = 128;
  constexpr std::size_t matrices = 12;  // of a layer
  constexpr std::size_t of_a_matrix = std::size_t{1'000'000'000'000} / depth / matrices;
  constexpr int steps = 4;
  constexpr std::size_t gibi = std::size_t{1} << 30;
  sim::Cluster cluster{dgx2, {.simulate = sim::Simulate::one_of_equals}};
  for (const zerospan::Rank rank : cluster.ranks()) {
    sim::Device device{
        cluster, rank, {.device_budget = zerospan::Bytes{24 * gibi}, .host_budget = zerospan::Bytes{64 * gibi}}};
    sim::Communicator communicator{cluster, rank};
    sim::Tier disk{device, {.capacity = zerospan::Bytes{2048 * gibi}}};
    zerospan::ZeroEngine engine{
        zerospan::Stage3{},
        communicator,
        device,
        zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
        zerospan::AdamW{},
        zerospan::EngineOptions{
            .updates = training.updates, .early_share = training.early_share, .prefetch = zerospan::Bytes{2 * gibi}}};
    std::vector<zerospan::PartitionedParameter<Ghost<zerospan::bfloat16>>> model;
    for (std::size_t m = 0; m < depth * matrices; ++m) {
      model.emplace_back(engine, "matrix " + std::to_string(m), zerospan::Shape{of_a_matrix}, zerospan::init::zeros());
    }
    engine.begin(zerospan::Pass::training);
    const double forward = forward_seconds / static_cast<double>(model.size());
    for (int step = 0; step < steps; ++step) {
      device.compute("step begins", 0);
      for (const auto& matrix : model) {
        const auto full = matrix.gather(device.stream());
        device.compute("forward", forward);
      }
      for (auto matrix = model.rbegin(); matrix != model.rend(); ++matrix) {
        const auto full = matrix->gather(device.stream());
        auto gradient = matrix->gradient(device.stream());
        device.compute("backward", 2 * forward);
        gradient.commit();
      }
      engine.step();
    }
  }

  const sim::Schedule schedule = cluster.resolve();
  std::vector<double> begins;
  for (const sim::Event& e : schedule) {
    if (e.name == "step begins") begins.push_back(e.begin);
  }
  const double from = begins[2];
  const double to = begins[3];
  StepTimes times{.step = to - from};
  for (const sim::Event& e : schedule) {
    if (e.end <= from || e.end > to) continue;
    const double seconds = static_cast<double>(e.bytes) * cluster.size() / disk_rate;
    if (e.kind == zerospan::OperationKind::read) times.reads += seconds;
    if (e.kind == zerospan::OperationKind::write) times.writes += seconds;
  }
  return times;
}

}  // namespace zerospan_test
