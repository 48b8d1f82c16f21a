/// @file
/// Rehearsal: a declared model is trained on one rank of a simulated machine, by the engine that would train it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <zerospan/activation/detail/device_checkpoints.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/engine/memory_account.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/plan/detail/program.hpp>
#include <zerospan/plan/detail/simulated_rank.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/setting.hpp>

namespace zerospan::inline v0::plan::detail {

template <class Machine>
Placement placement_of(const Setting& setting, Machine& machine) {
  Placement placement{.parameters = machine.tier(setting.placing.parameters),
                      .gradients = machine.tier(setting.placing.gradients),
                      .optimizer = machine.tier(setting.placing.optimizer)};
  if (setting.optimizer_share) {
    placement.optimizer_share = {machine.tier(setting.optimizer_share->place), setting.optimizer_share->fraction};
  }
  if (setting.groups && setting.groups->copies) placement.group_copies = machine.tier(*setting.groups->copies);
  return placement;
}

/// Calls `f(engine)` with an engine as the setting says. @throws as ZeroEngine's constructor.
template <class Machine, class F>
void with_engine(const Setting& setting, Machine& machine, F f) {
  const auto with_ranks = [&](auto stage, auto& ranks) {
    std::visit(
        [&](const auto& optimizer) {
          ZeroEngine engine{stage, ranks, machine.device, placement_of(setting, machine), optimizer, setting.options};
          f(zerospan::detail::engine_of(*engine.store(), "a plan"));
        },
        setting.optimizer);
  };
  const auto with = [&](auto stage) {
    if (!setting.groups) return with_ranks(stage, machine.communicator);
    GroupedCommunicator ranks{split_into_groups(machine.communicator, setting.groups->ranks)};
    with_ranks(stage, ranks);
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

/// @throws ConfigurationError if there is no such rank, or there are no such groups.
inline void check_rank(const Setting& setting, Rank rank) {
  if (setting.ranks < 1 || rank.value < 0 || rank.value >= setting.ranks) {
    throw_configuration_error("there is no rank " + std::to_string(rank.value) + " of " +
                              std::to_string(setting.ranks));
  }
  if (setting.groups && (setting.groups->ranks < 1 || setting.ranks % setting.groups->ranks != 0)) {
    throw_configuration_error(std::to_string(setting.ranks) + " ranks are no groups of " +
                              std::to_string(setting.groups->ranks));
  }
}

/// Numbers of ranks: as the cluster has them, and as an engine has them whose ranks are in groups.
/// @see GroupedCommunicator
class RankNumbers {
 public:
  explicit RankNumbers(const Setting& setting)
      : in_group_{setting.groups ? setting.groups->ranks : setting.ranks}, groups_{setting.ranks / in_group_} {}

  Rank in_engine(Rank rank) const { return Rank{rank.value % in_group_ * groups_ + rank.value / in_group_}; }
  Rank in_cluster(Rank rank) const { return Rank{rank.value % groups_ * in_group_ + rank.value / groups_}; }

 private:
  int in_group_;
  int groups_;
};

/// What `f` may look at.
struct Rehearsed {
  zerospan::detail::Engine& engine;
  zerospan::detail::CheckpointStore* checkpoints;  ///< nullptr: none.
  std::size_t step;                                ///< Steps made.
};

/// Declares the model on a rank. Activation checkpoints are made when all parameters are declared.
/// @param f Called as `f(Rehearsed, program)`; the first call that needs values ends declaration.
/// @throws as an engine does: BudgetError for what does not fit, ConfigurationError for what contradicts itself.
template <class Machine, class F>
void declare(const Model& model, const Setting& setting, Machine& machine, F f) {
  with_engine(setting, machine, [&](zerospan::detail::Engine& engine) {
    Program program{model, setting, engine, machine.stream(),
                    [&](std::string_view name, double flops) { machine.compute(name, flops); }};
    std::optional<zerospan::detail::DeviceCheckpoints<typename Machine::device_type>> checkpoints;
    if (setting.activations) {
      checkpoints.emplace(machine.device, machine.tier(setting.activations->place), setting.activations->options);
    }
    zerospan::detail::CheckpointStore* const store = checkpoints ? &*checkpoints : nullptr;
    f(Rehearsed{engine, store, 0}, program);
  });
}

/// Ranks that have as much of the model alone. They differ where something is so small that it has an owner, and is not
/// in slices.
class RankKinds {
 public:
  /// @param owners Of the engine's parameters, by its numbers, as all ranks here. @see zerospan::detail::Engine::owners
  RankKinds(const Model& model, int ranks, const std::vector<std::optional<Rank>>& owners) {
    std::vector<Belongings> belongings(static_cast<std::size_t>(ranks));
    std::vector<std::size_t> uses(model.parameters.size(), 1);
    for (const Parameter& parameter : model.parameters) {
      if (parameter.tied_to) ++uses[*parameter.tied_to];
    }
    auto owner = owners.begin();
    for (std::size_t p = 0; p < uses.size(); ++p) {
      const Parameter& parameter = model.parameters[p];
      if (parameter.tied_to) continue;
      if (*owner) {
        belongings[static_cast<std::size_t>((*owner)->value)].emplace_back(parameter.shape.elements(), parameter.type,
                                                                           parameter.training, uses[p]);
      }
      ++owner;
    }
    std::map<Belongings, std::size_t> known;
    for (std::size_t r = 0; r < belongings.size(); ++r) {
      const auto [kind, is_new] = known.try_emplace(belongings[r], kinds_.size());
      if (is_new) kinds_.emplace_back();
      kinds_[kind->second].push_back(Rank{static_cast<int>(r)});
    }
  }

  /// The ranks of each kind, in their order.
  const std::vector<std::vector<Rank>>& all() const noexcept { return kinds_; }

 private:
  /// What one rank has alone. What is alike but for its name takes as much.
  using Belongings = std::vector<std::tuple<std::size_t, ElementType, Training, std::size_t>>;

  std::vector<std::vector<Rank>> kinds_;
};

/// What ranks have for gathered parameters and gradients: each as much as the one that has least.
template <sim::DeviceMemory Where>
class WorkingMemories {
 public:
  /// Ends declaration on one of each kind of ranks, where there are several kinds.
  /// @param owners As of RankKinds.
  WorkingMemories(const Model& model, const Setting& setting, const std::vector<std::optional<Rank>>& owners) {
    const RankKinds kinds{model, setting.ranks, owners};
    if (kinds.all().size() == 1) return;
    for (const std::vector<Rank>& ranks : kinds.all()) {
      kinds_.push_back({{ranks.begin(), ranks.end()}});
      look_at(kinds_.back(), model, setting);
    }
  }

  /// Bytes that a rank has of it, and does not use.
  Bytes withheld(Rank rank) const {
    std::size_t least = std::numeric_limits<std::size_t>::max();
    std::size_t own = 0;
    for (const Kind& kind : kinds_) {
      if (!kind.bytes) continue;
      least = std::min(least, *kind.bytes);
      if (kind.ranks.contains(rank)) own = *kind.bytes;
    }
    return Bytes{own - std::min(own, least)};
  }

  /// @throws The error of a rank that cannot end its declaration, if there is one.
  void check() const {
    if (error_) throw BudgetError{*error_};
  }

 private:
  /// Ranks that have as much.
  struct Kind {
    std::set<Rank> ranks{};
    std::optional<std::size_t> bytes{};  ///< Of working memory; none, if it cannot be.
  };

  void look_at(Kind& kind, const Model& model, const Setting& setting) {
    sim::Cluster cluster = timeless(setting);
    SimulatedRank<Where> machine{cluster, setting, RankNumbers{setting}.in_cluster(*kind.ranks.begin())};
    try {
      declare(model, setting, machine, [&](const Rehearsed& now, const auto&) {
        try {
          now.engine.begin(Pass::training);
          kind.bytes = now.engine.memory().working.count;
        } catch (const BudgetError&) {
          if (!is_placed(now.engine.memory())) throw;
          kind.bytes = machine.device.memory().largest_free();  // too little for a parameter alone
        }
      });
    } catch (const BudgetError& error) {
      if (!error_) error_ = error;
    }
  }

  /// Whether all that was reserved has its place.
  static bool is_placed(const MemoryAccount& account) {
    std::size_t reserved = 0;
    std::size_t used = 0;
    for (const MemoryLine& line : account.lines) {
      reserved += line.reserved.count;
      used += line.used.count;
    }
    return used >= reserved;
  }

  std::vector<Kind> kinds_;  ///< Empty: there is one.
  std::optional<BudgetError> error_;
};

/// Makes steps of the model in virtual time.
/// @param after Called as `after(Rehearsed)` when declaration has ended, and after each step.
/// @throws as `declare`, and as an engine does in training.
template <sim::DeviceMemory Where, class After>
void rehearse(const Model& model, const Setting& setting, SimulatedRank<Where>& machine, std::size_t steps,
              After after) {
  declare(model, setting, machine, [&](Rehearsed now, auto& program) {
    const WorkingMemories<Where> all{model, setting, now.engine.owners()};
    const Rank rank = RankNumbers{setting}.in_engine(machine.communicator.rank());
    const Allocation withheld = machine.device.memory().allocate_working(all.withheld(rank));
    now.engine.begin(Pass::training);
    all.check();
    after(now);
    for (now.step = 1; now.step <= steps; ++now.step) {
      program.step(now.checkpoints);
      after(now);
    }
  });
}

}  // namespace zerospan::inline v0::plan::detail
