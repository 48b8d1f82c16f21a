/// @file
/// Showcase: which model is trained, in how much memory, and what it moves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include <fmt/format.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

#include "gpt/activations.hpp"
#include "gpt/cpu_math.hpp"
#include "gpt/options.hpp"
#include "gpt/states.hpp"

namespace large {

/// Of a model with at least so many parameters: the widest that has six layers, but 1024 at the least and 4096 at the
/// most. Every vector is whole blocks then.
inline gpt::Dimensions model_of(double parameters, std::size_t tokens) {
  constexpr std::size_t head = 128;
  constexpr double fewest_layers = 6;
  for (std::size_t width = 4096;; width /= 2) {
    const auto w = static_cast<double>(width);
    const double layers = std::ceil(parameters / (12 * w * w + 13 * w));
    if (layers < fewest_layers && width > 1024) continue;
    return {.layers = static_cast<std::size_t>(std::max(layers, 1.0)),
            .heads = width / head,
            .width = width,
            .context = tokens,
            .tiles = 4};
  }
}

/// One rank with everything on disk. Its memory depends on the width alone, but for the activations of each layer.
/// @param prefetch Whether parameters are fetched ahead.
inline gpt::Options options_of(const gpt::Dimensions& model, std::size_t steps, int threads, bool prefetch) {
  gpt::Options o;
  o.ranks = 1;
  o.threads = threads;
  o.model = model;
  o.precision = gpt::Precision::bf16;
  o.master_weights = zerospan::MasterWeights::split;
  o.batch = 1;
  const double rate = 0.004 / static_cast<double>(model.width);  // wide and deep, and few tokens
  o.schedule = {.maximum = rate, .minimum = rate / 10, .warmup = 1, .steps = steps};
  o.timeout = 600;
  const std::uint64_t group = model.largest_group() * gpt::element_bytes(o);
  o.device_budget = zerospan::round_up(gpt::resident_parameters(o) + 8 * group, gpt::page_bytes);
  o.host_budget = std::uint64_t{512} << 20;
  o.staging_bytes = o.host_budget;
  o.prefetch_bytes = prefetch ? 3 * group : 0;
  return o;
}

/// Elements of what is gathered and what stays, and of the token embedding, which is the head too.
struct Elements {
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  std::uint64_t token = 0;
  std::uint64_t position = 0;

  std::uint64_t in_layers() const { return all - resident - token - position; }
};

inline Elements elements_of(const gpt::Options& o) {
  Elements e;
  o.model.for_each_parameter([&](std::uint64_t elements) {
    e.all += elements;
    if (elements * gpt::element_bytes(o) <= gpt::resident_bytes) e.resident += elements;
  });
  e.token = gpt::Dimensions::vocabulary * o.model.width;
  e.position = o.model.context * o.model.width;
  return e;
}

/// Bytes on disk: bf16 parameters and gradients, the lower halves of master weights, two fp32 moments, and the head's
/// own gradient.
inline std::uint64_t disk_bytes(const gpt::Options& o) {
  const Elements e = elements_of(o);
  return 14 * e.all - 2 * e.resident + 2 * e.token;
}

/// What a pass, or the step, reads and writes.
struct Traffic {
  std::uint64_t read = 0;
  std::uint64_t written = 0;
};

/// Of a training step, if nothing stays in memory from the forward to the backward pass, or is fetched for a step that
/// is never made.
struct StepTraffic {
  Traffic forward;
  Traffic backward;
  Traffic step;

  std::uint64_t read() const { return forward.read + backward.read + step.read; }
  std::uint64_t written() const { return forward.written + backward.written + step.written; }
};

/// The forward pass gathers every parameter, and the token embedding as the head again. So does the backward pass, but
/// for the embeddings, and writes every gradient, the token embedding's twice. The step joins these two, and reads
/// gradients, states and parameters, and writes states and parameters.
inline StepTraffic traffic_of(const gpt::Options& o) {
  const Elements e = elements_of(o);
  return {{2 * (e.in_layers() + 2 * e.token + e.position), 0},
          {2 * (e.in_layers() + e.token), 2 * (e.all + e.token)},
          {12 * e.all + 2 * (e.all - e.resident) + 4 * e.token, 10 * e.all + 2 * (e.all - e.resident) + 2 * e.token}};
}

/// What the process may take: budgets, activations and their gradients, one tile in fp32, and what does not depend on
/// the model: code, timeline, OpenBLAS's buffers.
inline std::uint64_t memory_bound(const gpt::Options& o) {
  using Math = gpt::CpuMath<gpt::BFloat16>;
  constexpr std::uint64_t everything_else = std::uint64_t{192} << 20;
  const auto of_activations = std::max(gpt::Activations<Math>::bytes(o.model, o.batch, o.model.layers),
                                       gpt::Activations<Math>::bytes(o.model, o.evaluation_batch(), 1));
  const std::uint64_t of_gradients = 16 * o.batch * o.model.context * o.model.width * sizeof(float);
  return o.device_budget + o.host_budget + of_activations + of_gradients + 2 * o.model.largest_group() * sizeof(float) +
         everything_else;
}

/// @return The model with as many of its layers as have room on the disk. @throws zerospan::BudgetError if not one has.
inline gpt::Dimensions scaled_to(gpt::Dimensions model, std::uint64_t disk) {
  const auto bytes = [&] { return disk_bytes(options_of(model, 1, 1, true)); };
  while (model.layers > 1 && bytes() > disk) --model.layers;
  if (bytes() > disk) {
    zerospan::throw_budget_error("one layer of width " + std::to_string(model.width), zerospan::Bytes{bytes()},
                                 zerospan::Bytes{disk}, "choose fewer parameters, or another directory");
  }
  return model;
}

}  // namespace large
