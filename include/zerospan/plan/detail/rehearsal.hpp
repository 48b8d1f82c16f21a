/// @file
/// Rehearsal: a declared model is trained on one rank of a simulated machine, by the engine that would train it.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include <zerospan/activation/detail/device_checkpoints.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/plan/detail/program.hpp>
#include <zerospan/plan/detail/simulated_rank.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/setting.hpp>

namespace zerospan::inline v0::plan::detail {

inline Placement placement_of(const Setting& setting, SimulatedRank& machine) {
  Placement placement{.parameters = machine.tier(setting.placing.parameters),
                      .gradients = machine.tier(setting.placing.gradients),
                      .optimizer = machine.tier(setting.placing.optimizer)};
  if (setting.optimizer_share) {
    placement.optimizer_share = {machine.tier(setting.optimizer_share->place), setting.optimizer_share->fraction};
  }
  return placement;
}

/// Calls `f(engine)` with an engine as the setting says. @throws as ZeroEngine's constructor.
template <class F>
void with_engine(const Setting& setting, SimulatedRank& machine, F f) {
  const auto with = [&]<class S>(S stage) {
    std::visit(
        [&](const auto& optimizer) {
          ZeroEngine engine{stage,     machine.communicator, machine.device, placement_of(setting, machine),
                            optimizer, setting.options};
          f(zerospan::detail::engine_of(*engine.store(), "a plan"));
        },
        setting.optimizer);
  };
  switch (setting.stage) {
    case 0:
      return with(Stage0{});
    case 1:
      return with(Stage1{});
    case 2:
      return with(Stage2{});
    case 3:
      return with(Stage3{});
    default:
      throw_configuration_error("there is no stage " + std::to_string(setting.stage) + " of ZeRO");
  }
}

/// @throws ConfigurationError if ranks are not alike, or there is none of that number.
inline void check_rank(const Setting& setting, Rank rank) {
  if (setting.ranks < 1 || rank.value < 0 || rank.value >= setting.ranks) {
    throw_configuration_error("there is no rank " + std::to_string(rank.value) + " of " +
                              std::to_string(setting.ranks));
  }
  if (!setting.options.partition.is<Slices>()) {
    throw_configuration_error("a plan is of parameters in slices, and not of the partition by " +
                              std::string{setting.options.partition.name()});
  }
}

/// What `f` may look at.
struct Rehearsed {
  zerospan::detail::Engine& engine;
  zerospan::detail::CheckpointStore* checkpoints;  ///< nullptr: none.
  SimulatedRank& machine;
  std::size_t step;  ///< Steps made.
};

/// Makes steps of the model in virtual time. Activation checkpoints are made when all parameters are declared.
/// @param after Called as `after(Rehearsed)` when declaration has ended, and after each step.
/// @throws as an engine does: BudgetError for what does not fit, ConfigurationError for what contradicts itself.
template <class After>
void rehearse(const Model& model, const Setting& setting, SimulatedRank& machine, std::size_t steps, After after) {
  with_engine(setting, machine, [&](zerospan::detail::Engine& engine) {
    Program program{model, setting, engine,
                    [&](std::string_view name, double flops) { machine.compute(name, flops); }};
    std::optional<zerospan::detail::DeviceCheckpoints<SimulatedRank::device_type>> checkpoints;
    if (setting.activations) {
      checkpoints.emplace(machine.device, machine.tier(setting.activations->place), setting.activations->options);
    }
    zerospan::detail::CheckpointStore* const store = checkpoints ? &*checkpoints : nullptr;
    engine.begin(Pass::training);
    after(Rehearsed{engine, store, machine, 0});
    for (std::size_t step = 1; step <= steps; ++step) {
      program.step(store);
      after(Rehearsed{engine, store, machine, step});
    }
  });
}

}  // namespace zerospan::inline v0::plan::detail
