/// @file
/// The engine's communicator: the ranks', as a whole or in groups.
#pragma once

#include <utility>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/device.hpp>

#include "options.hpp"

namespace gpt {

/// The scratch memory is a small part of the device's.
inline zerospan::QuantizationOptions quantization_of(const Options& options) {
  const Quantization what = options.quantization;
  zerospan::QuantizationOptions result{.scratch = zerospan::Bytes{options.device_budget / 16}};
  if (what != Quantization::reduce) result.gather = zerospan::QuantizedType::int8;
  if (what != Quantization::gather) result.reduce = zerospan::QuantizedType::int4;
  return result;
}

/// A collective. @param device Where quantized ranks have their scratch memory.
/// @throws zerospan::ConfigurationError if there are to be groups of ranks that cannot be split.
template <zerospan::TrainingCommunicator C, zerospan::Device D>
zerospan::AnyCommunicator in_levels(C ranks, D& device, const Options& options) {
  using zerospan::AnyCommunicator;
  if (options.ranks_per_group == 0) return AnyCommunicator{std::move(ranks)};
  if constexpr (zerospan::Splits<C>) {
    auto levels = zerospan::split_into_groups(ranks, options.ranks_per_group);
    if (options.sharding == Sharding::group) {
      return AnyCommunicator{zerospan::HybridCommunicator{std::move(levels)}};
    }
    if (options.quantization == Quantization::none) {
      return AnyCommunicator{zerospan::GroupedCommunicator{std::move(levels)}};
    }
    using Across = zerospan::QuantizedCommunicator<C, D>;
    return AnyCommunicator{zerospan::GroupedCommunicator{zerospan::CommunicatorLevels<C, Across>{
        std::move(levels.within), Across{std::move(levels.across), device, quantization_of(options)}}}};
  } else {
    zerospan::throw_configuration_error("ranks that communicate so cannot be in groups: --ranks-per-group 0");
  }
}

}  // namespace gpt
