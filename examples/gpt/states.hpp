/// @file
/// How large a model's states are, and the memory in which they are trained where nobody says how much.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "options.hpp"

namespace gpt {

/// Bytes of parameters, gradients, master weights and moments: of one copy, however many ranks there are.
inline std::uint64_t state_bytes(const Options& o) {
  const std::uint64_t element = o.precision == Precision::fp32 ? 4 : 2;
  const std::uint64_t gradient = o.micro_batches > 1 ? 4 : element;
  return o.model.parameters() * (element + gradient + 3 * sizeof(float));
}

/// What all ranks may use of device and host memory.
inline std::uint64_t budget_bytes(const Options& o) {
  return static_cast<std::uint64_t>(o.ranks) * (o.device_budget + o.host_budget);
}

struct Budgets {
  std::uint64_t device;
  std::uint64_t host;
};

/// For a rank all of whose states are on disk, with one micro-batch a step: a tenth of its states' bytes, or what the
/// model needs if that is more.
inline Budgets small_budgets(const Options& o) {
  constexpr std::uint64_t kibibyte = 1024;
  const auto ranks = static_cast<std::uint64_t>(o.ranks);
  const std::uint64_t tenth = state_bytes(o) * 100 / 1005 / ranks;
  // Vectors stay in device memory, each in a block of 1024 elements a rank; weights come and go.
  const std::uint64_t vectors = (8 * o.model.layers + 6) * ranks * 4 * kibibyte;
  const std::uint64_t weights = o.model.largest_group() * sizeof(float) * 5 / 4 + ranks * 4 * kibibyte;
  const std::uint64_t device = std::max(vectors + weights, tenth / 5 * 4);
  return {device, std::max(128 * kibibyte, tenth - std::min(tenth, device))};
}

}  // namespace gpt
