/// @file
/// What a training of a GPT needs on a cluster of GPUs, how long a step takes there, and what would make it faster:
/// before a GPU is rented.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/core/units.hpp>
#include <zerospan/plan/choose.hpp>
#include <zerospan/plan/footprint.hpp>
#include <zerospan/plan/gpt.hpp>
#include <zerospan/plan/predict.hpp>
#include <zerospan/plan/setting.hpp>

#include "cluster_file.hpp"

namespace cluster {

/// A GPT whose blocks keep what enters them, and compute everything else again in the backward pass.
/// @see zerospan::plan::paper_gpt
struct Training {
  zerospan::plan::GptExtents model{};  ///< Its batch is one GPU's in a micro-batch.
  std::size_t heads = 1;
  bool keeps_scores =
      false;  ///< Attention keeps tokens x tokens scores of each head, as kernels that are not fused do.
  std::size_t micro_batches = 1;
  zerospan::plan::MicroBatches order = zerospan::plan::MicroBatches::in_passes;
  int stage = 3;
  float max_gradient_norm = 1.0F;
};

/// What is asked.
struct Question {
  Cluster cluster{};
  Training training{};
  zerospan::plan::Placing placing{zerospan::plan::Place::nvme, zerospan::plan::Place::nvme,
                                  zerospan::plan::Place::nvme};
  std::optional<zerospan::Bytes> prefetch{};
  std::optional<zerospan::plan::Place>
      activations{};    ///< Of checkpoints; none: on the device or the host, as is faster.
  bool choose = false;  ///< All places of states, and more tiles, look-ahead, staging memory, groups of a node's GPUs.
};

/// One way to train.
struct Way {
  zerospan::plan::Placing placing{};
  std::optional<zerospan::plan::Choice> choice{};  ///< Its fastest setting; none, if it does not fit.
  std::string refusal{};                           ///< Why not.
};

/// A change of machine or setting that makes training faster.
struct Gain {
  std::string change;
  double ratio;  ///< Of tokens per second.
};

/// How many times as many layers are tried at most.
inline constexpr std::size_t most_times = 16;

struct Answer {
  zerospan::plan::Machine machine{};  ///< Of each rank, what is left for states.
  double activations = 0;             ///< Bytes of a GPU that are left to a block's activations, or the logits.
  std::size_t parameters = 0;
  std::vector<Way> ways{};  ///< The fastest first.

  // Of the fastest, if there is one.
  zerospan::plan::Prediction prediction{};
  zerospan::plan::Footprint footprint{};
  double tokens_per_second = 0;  ///< Of all GPUs.
  double flops_per_second = 0;   ///< Of one, with what is computed again.
  std::vector<Gain> gains{};     ///< The largest first.

  // If a choice was asked for.
  std::size_t most_layers = 0;  ///< Of the same width, on these GPUs; up to `most_times` as many as the model has.
  int fewest_gpus = 0;          ///< Of such nodes; 0: more than 1024.
};

/// @param progress Is told what comes next.
/// @throws zerospan::ConfigurationError for what contradicts itself.
Answer answer(
    const Question& question, const std::function<void(const std::string&)>& progress = [](const std::string&) {});

}  // namespace cluster
