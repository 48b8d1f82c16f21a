/// @file
/// The engine's communicator: the ranks', as a whole or in groups.
#pragma once

#include <utility>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/core/error.hpp>

#include "options.hpp"

namespace gpt {

/// A collective. @throws zerospan::ConfigurationError if there are to be groups of ranks that cannot be split.
template <zerospan::TrainingCommunicator C>
zerospan::AnyCommunicator in_levels(C ranks, const Options& options) {
  using zerospan::AnyCommunicator;
  if (options.ranks_per_group == 0) return AnyCommunicator{std::move(ranks)};
  if constexpr (zerospan::Splits<C>) {
    auto levels = zerospan::split_into_groups(ranks, options.ranks_per_group);
    if (options.sharding == Sharding::group) {
      return AnyCommunicator{zerospan::HybridCommunicator{std::move(levels)}};
    }
    return AnyCommunicator{zerospan::GroupedCommunicator{std::move(levels)}};
  } else {
    zerospan::throw_configuration_error("ranks that communicate so cannot be in groups: --ranks-per-group 0");
  }
}

}  // namespace gpt
