/// @file
/// How long a step will take, from what disk and processor do by themselves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "showcase.hpp"

namespace large {

/// Measured before the training.
struct Rates {
  double read_bytes;      ///< A second, while nothing is written.
  double mixed_bytes;     ///< A second, each way, while as much is read as is written.
  double forward_flops;   ///< A second, of a tile's product, its weight widened from bf16.
  double backward_flops;  ///< Of the two products of a tile, its weight widened and its gradient rounded.
  double copied_bytes;    ///< A second, on one thread.
  double sums;            ///< Elements a second of a gradient that are written to its sum, with their norm.
  double updates;         ///< Elements a second that AdamW updates in memory.

  std::string instructions{};  ///< With which oneDNN computes products in bf16; empty: they are in fp32.
};

struct Prediction {
  double forward;  ///< With the optimizer's step, which is made behind it.
  double backward;

  double seconds() const { return forward + backward; }
};

/// Each of the two parts takes as long as its slowest lane; one begins when the other has ended. The forward pass finds
/// its parameters in staging memory, where the step has left them. The processor is one lane: products take all of its
/// cores, so what else it does in a pass comes on top.
inline Prediction predict(const gpt::Options& o, const Rates& rates) {
  const StepTraffic traffic = traffic_of(o);
  const auto disk = [&](const Traffic& t) {
    const auto [read, written] = t;
    const auto both = static_cast<double>(std::min(read, written));
    const auto alone = static_cast<double>(std::max(read, written)) - both;
    return both / rates.mixed_bytes + alone / rates.read_bytes;
  };
  const auto elements = static_cast<double>(elements_of(o).all);
  const double flops = 2 * static_cast<double>(o.tokens_a_step()) * elements;
  const auto copies = [&](const Traffic& t) { return static_cast<double>(t.read) / rates.copied_bytes; };
  return {
      std::max(disk(traffic.step), flops / rates.forward_flops + copies(traffic.forward) + elements / rates.updates),
      std::max(disk(traffic.backward),
               2 * flops / rates.backward_flops + copies(traffic.backward) + elements / rates.sums)};
}

}  // namespace large
