/// @file
/// The fingerprint by which ranks notice that they were given different options.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/core/philox.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/engine/stage.hpp>

namespace zerospan::inline v0::detail {

/// Of what every rank must be told alike; never 0.
/// @param state_bytes Of a block's optimizer states.
template <Stage S>
std::size_t fingerprint(const EngineOptions& options, const Placement& placement, std::size_t state_bytes) {
  const auto bits = [](float value) { return std::uint64_t{std::bit_cast<std::uint32_t>(value)}; };
  const DynamicLossScale scale = options.loss_scale.value_or(DynamicLossScale{.initial = 0});
  const std::uint64_t parts[]{std::uint64_t{S::partitions_optimizer},
                              std::uint64_t{S::partitions_gradients},
                              std::uint64_t{S::partitions_parameters},
                              std::uint64_t{state_bytes},
                              options.seed,
                              std::uint64_t{options.micro_batches},
                              std::uint64_t{options.persistence_threshold.count},
                              bits(options.max_gradient_norm),
                              std::uint64_t{options.prefetch.count},
                              static_cast<std::uint64_t>(options.partition),
                              std::uint64_t{placement.group_copies.has_value()},
                              bits(scale.initial),
                              bits(scale.growth_factor),
                              bits(scale.backoff_factor),
                              std::uint64_t{scale.growth_interval},
                              bits(scale.minimum),
                              bits(scale.maximum)};
  std::size_t print = 0;
  for (const std::uint64_t part : parts) print = philox(print, 0, part)[0] | std::size_t{1};
  return print;
}

}  // namespace zerospan::inline v0::detail
