/// @file
/// What ZeRO-Infinity (arXiv 2104.07857) has measured, and the settings of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "paper_memory.hpp"
#include "paper_step.hpp"

namespace paper {

/// A step that the paper has timed, or shows in a figure without numbers.
struct TimedRow {
  std::string name;
  Training training;
  std::optional<double> measured;  ///< Operations a second of a GPU.
};

struct SizeRow {
  Strategy strategy;
  Model model;      ///< Of so many layers as fit.
  double measured;  ///< Parameters.
};

struct WidthRow {
  std::size_t tiles;
  std::size_t measured;  ///< hd
};

/// Heads are of 128 elements. GPUs that share a matrix, 4 and 8 of them, are the paper's table 1 as it is remembered:
/// no public copy of its text was found to check it. The authors' script for 52e9 parameters has 4 as well
/// (github.com/microsoft/DeepSpeedExamples, Megatron-LM-v1.1.5-ZeRO3/examples/run_gpt_52B.sh). Without them the largest
/// matrix and its gradient are no GPU's.
inline Model model(std::size_t hidden, std::size_t layers, double batch, int model_parallel = 1) {
  return {.hidden = hidden, .layers = layers, .batch = batch, .heads = hidden / 128, .model_parallel = model_parallel};
}

inline constexpr std::size_t k = 1024;

inline Model trillion() { return model(25 * k, 128, 5, 4); }

/// Table 1 says that all states of a trillion rest on 512 GPUs. They do not fit: what does is the optimizer on the CPU.
/// By nodes the paper has the same training at the same speed, where its states have no place on the GPUs of few nodes.
inline Training trillion_on_gpus() { return {trillion(), 32, Place::gpu, Place::gpu}; }

/// Figure 5a: 512 GPUs.
inline std::vector<TimedRow> by_size() {
  return {{"0.5T", {model(18 * k, 124, 7, 4), 32, Place::gpu, Place::gpu}, 46.3e12},
          {"1T, optimizer on CPU", {trillion(), 32, Place::gpu, Place::cpu}, 48.9e12},
          {"5T", {model(48 * k, 174, 3, 4), 32, Place::nvme, Place::nvme}, 44.0e12},
          {"10T", {model(64 * k, 200, 2, 4), 32, Place::nvme, Place::nvme}, 42.8e12},
          {"20T (paper: 34 to 37)", {model(88 * k, 205, 1.25, 8), 32, Place::nvme, Place::nvme}, 35.5e12}};
}

/// Figure 5b: a trillion parameters. Four nodes have no other place for its states than NVMe.
inline std::vector<TimedRow> by_nodes() {
  std::vector<TimedRow> rows;
  const auto add = [&](int nodes, double measured) {
    const int gpus = nodes * gpus_of_node;
    rows.push_back({"1T on " + std::to_string(gpus), {trillion(), nodes, Place::nvme, Place::nvme}, measured / gpus});
  };
  add(4, 2.8e15);
  add(8, 6.2e15);
  add(16, 11.8e15);
  add(32, 25.0e15);
  return rows;
}

/// Figure 5c: one node, no model parallelism.
inline std::vector<TimedRow> by_tier() {
  return {{"10B on GPU", {model(4 * k, 50, 8), 1, Place::gpu, Place::gpu}, {}},
          {"50B on CPU and NVMe", {model(8 * k, 62, 26), 1, Place::cpu, Place::nvme}, {}},
          {"100B on CPU and NVMe", {model(8 * k, 125, 24), 1, Place::cpu, Place::nvme}, {}},
          {"0.5T on NVMe", {model(18 * k, 124, 8), 1, Place::nvme, Place::nvme}, {}},
          {"1T on NVMe", {model(25 * k, 128, 7), 1, Place::nvme, Place::nvme}, {}}};
}

/// Figure 6a: one node. Four sequences a GPU.
inline std::vector<SizeRow> by_strategy() {
  using enum Place;
  return {{{"data parallel", 0, gpu, gpu, gpu, gpu}, model(2 * k, 0, 4), 1.4e9},
          {{"ZeRO-2", 2, gpu, gpu, gpu, gpu}, model(4 * k, 0, 4), 10e9},
          {{"ZeRO-Offload", 2, gpu, cpu, cpu, gpu}, model(4 * k, 0, 4), 13e9},
          {{"ZeRO-3", 3, gpu, gpu, gpu, gpu}, model(4 * k, 0, 4), 20e9},
          {{"Infinity, CPU", 3, cpu, cpu, cpu, cpu}, model(8 * k, 0, 4), 70e9},
          {{"Infinity, NVMe", 3, nvme, nvme, nvme, cpu}, model(25 * k, 0, 4), 1000e9}};
}

/// Figure 6b.
inline std::vector<WidthRow> by_tiles() { return {{1, 8 * k}, {16, 64 * k}}; }

}  // namespace paper
