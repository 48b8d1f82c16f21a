/// @file
/// How large a model's states are, and the memory in which they are trained where nobody says how much.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <zerospan/core/units.hpp>

#include "options.hpp"

namespace gpt {

/// Of a parameter.
inline std::uint64_t element_bytes(const Options& o) { return o.precision == Precision::fp32 ? 4 : 2; }

/// Bytes of parameters, gradients, master weights and moments: of one copy, however many ranks there are. Parameters in
/// fp32 are their own master weights, unless these rest in memory and they do not.
inline std::uint64_t state_bytes(const Options& o) {
  const std::uint64_t element = element_bytes(o);
  const std::uint64_t gradient = o.micro_batches > 1 ? 4 : element;
  const bool rest_apart = o.stage == 3 && o.parameters == TierKind::nvme && o.optimizer != TierKind::nvme;
  const bool are_parameters = o.precision == Precision::fp32 && !rest_apart;
  const bool are_split = o.master_weights == zerospan::MasterWeights::split;
  const std::uint64_t master = are_parameters ? 0 : are_split ? 2 : 4;
  const std::uint64_t parameters = o.model.parameters();
  const std::uint64_t moments = o.moments == Moments::fp32 ? parameters * 8 : parameters * 2 + parameters / 32;
  return parameters * (element + gradient + master) + moments;
}

/// What all ranks may use of device and host memory.
inline std::uint64_t budget_bytes(const Options& o) {
  return static_cast<std::uint64_t>(o.ranks) * (o.device_budget + o.host_budget);
}

struct Budgets {
  std::uint64_t device;
  std::uint64_t host;
};

/// A size that memory is dealt out in.
inline constexpr std::uint64_t page_bytes = 4096;

/// Parameters of at most so many bytes stay in device memory.
inline constexpr std::uint64_t resident_bytes = 32 * 1024;

/// Device memory of the parameters that stay there. Each is packed, unless its slices, of whole blocks of 1024
/// elements, are less than twice as large.
inline std::uint64_t resident_parameters(const Options& o) {
  const std::uint64_t element = element_bytes(o);
  const std::uint64_t blocks = 1024 * static_cast<std::uint64_t>(o.ranks);
  std::uint64_t bytes = 0;
  o.model.for_each_parameter([&](std::uint64_t elements) {
    if (elements * element > resident_bytes) return;
    const std::uint64_t padded = zerospan::round_up(elements, blocks);
    const bool is_sliced = o.ranks > 1 && padded < 2 * elements;
    bytes += zerospan::round_up((is_sliced ? padded : elements) * element, 64);
  });
  return zerospan::round_up(bytes, page_bytes);
}

/// For a rank all of whose states are on disk, with one micro-batch a step: a tenth of its states' bytes, or what the
/// model needs if that is more.
inline Budgets small_budgets(const Options& o) {
  constexpr std::uint64_t kibibyte = 1024;
  const auto ranks = static_cast<std::uint64_t>(o.ranks);
  const std::uint64_t tenth = state_bytes(o) * 100 / 1005 / ranks;
  // The largest group that comes and goes, a quarter more for what is fetched meanwhile, and padding to whole blocks.
  const std::uint64_t group = o.model.largest_group() * element_bytes(o) * 5 / 4 + 2 * ranks * 4 * kibibyte;
  const std::uint64_t device = std::max(resident_parameters(o) + group, tenth / 5 * 4);
  return {zerospan::round_up(device, page_bytes), std::max(128 * kibibyte, tenth - std::min(tenth, device))};
}

}  // namespace gpt
