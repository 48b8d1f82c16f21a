/// @file
/// How large a model, and how wide a layer, the memory of one node takes: what the library's engine reserves, to the
/// byte, beside allowances for what it does not own.
#pragma once

#include <cstddef>
#include <string>

#include "paper_model.hpp"
#include "paper_step.hpp"

namespace paper {

/// How the states of a model are spread over 16 GPUs, their hosts and disks.
struct Strategy {
  std::string name;
  int stage;  ///< 0, 2 or 3
  Place parameters;
  Place gradients;
  Place optimizer;
  Place checkpoints;  ///< Of activations, every layer's input.
};

/// What the engine has reserved on each GPU for the largest model that fits.
struct Largest {
  Model model;
  double parameters;
  double device;       ///< Bytes of the GPU's memory, buffers of one matrix and its gradient included.
  double host;         ///< Of its share of the host's, staging memory included.
  double disk;         ///< Of its share of the disk.
  double allowances;   ///< Bytes of the GPU's memory that are left to activations and to a framework.
  std::string beyond;  ///< What the engine says to one layer more.
};

/// The most layers of `model` that fit. What is not the engine's is the framework's allowance, activations of one layer
/// and checkpoints by the paper's formulas.
Largest largest_model(const Strategy& strategy, const Model& model);

/// The same by the paper's 20 bytes a parameter, without allowances but those: parameters.
double largest_by_formula(const Strategy& strategy, const Model& model);

/// The widest hd, in steps of `step`, whose hd x 4 hd layer a GPU gathers beside its gradient in memory that is free in
/// pieces of 2 GiB alone, where the layer is cut into so many tiles.
std::size_t widest_layer(std::size_t tiles, std::size_t step);

}  // namespace paper
