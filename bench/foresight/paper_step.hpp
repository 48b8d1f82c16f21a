/// @file
/// What a step of the paper's transformer takes on its cluster: the library's engine, in virtual time.
#pragma once

#include <cstdint>

#include "paper_cluster.hpp"
#include "paper_model.hpp"
#include "paper_v100.hpp"

namespace paper {

/// When parameters are updated.
enum class Order : std::uint8_t {
  step_by_itself,    ///< The next forward pass begins when the step has ended: as in the paper.
  behind_next_pass,  ///< As the library does it where nobody asks for anything else.
};

struct Training {
  Model model;
  int nodes;
  Place parameters;
  Place optimizer;  ///< Gradients rest there too.
  Hardware hardware{};
  V100 gpu{};
  Order order = Order::step_by_itself;
};

/// Seconds of a step in the middle of a training.
struct StepTime {
  double step;
  double compute;  ///< Alone: products, attention and what crosses the GPU's memory between them.
  /// Compute, copies, transfers, collectives and updates one after the other, each alone on its link.
  double all_lanes;
};

/// Checkpoints of activations rest in the GPU's memory as far as they take a quarter of it at most, and else in the
/// host's.
inline Place place_of_checkpoints(const Model& model) {
  return bytes_of_checkpoints(model, model.batch) <= device_bytes / 4 ? Place::gpu : Place::cpu;
}

/// @throws zerospan::BudgetError if a GPU, a host or a disk has not the memory.
StepTime step_time(const Training& training);

/// The paper's measure: operations of its formula, by seconds, of a GPU.
inline double flops_per_second(const Training& training, double seconds) {
  return flops_of_step(training.model) / seconds;
}

}  // namespace paper
