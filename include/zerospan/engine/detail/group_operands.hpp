/// @file
/// The operands of work on a sub-group: its states, its gradients, its parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/model_states.hpp>

namespace zerospan::inline v0::detail {

/// Which operand a run of a sub-group is in: all runs are in one, which is cut as the sub-group is, or each has its
/// own.
struct RunOperands {
  enum class Layout : std::uint8_t { together, apart };

  Layout layout;
  std::size_t first;          ///< The operand of the first run.
  std::size_t element_bytes;  ///< Of what the operands hold.

  /// Where the run of that index is.
  std::byte* operator()(std::span<std::byte* const> pointers, std::size_t index, const ShardRun& run) const {
    return layout == Layout::together ? pointers[first] + run.first_in_group * element_bytes : pointers[first + index];
  }
};

/// Where the states of a sub-group are among the operands.
struct StatesOperand {
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  MasterPlace master_weights;
  std::size_t operand = none;  ///< None, if there is nothing but master weights, and these are the parameters.
  std::size_t capacity;        ///< Elements of the sub-group.

  /// The master weights of a run, whose parameter is at `parameter`; nullptr where they are in halves.
  float* master(std::span<std::byte* const> pointers, const ShardRun& run, std::byte* parameter) const {
    if (master_weights == MasterPlace::split) return nullptr;
    if (master_weights == MasterPlace::in_parameter) return reinterpret_cast<float*>(parameter);
    return reinterpret_cast<float*>(pointers[operand]) + run.first_in_group;
  }

  /// The lower halves of master weights that are in halves, of the run that begins there in the sub-group.
  std::uint16_t* lower_halves(std::span<std::byte* const> pointers, std::size_t first_in_group) const {
    return reinterpret_cast<std::uint16_t*>(pointers[operand]) + first_in_group;
  }

  /// The optimizer's states of the sub-group; nullptr if it has none.
  std::byte* optimizer(std::span<std::byte* const> pointers) const {
    if (operand == none) return nullptr;
    return pointers[operand] + capacity * master_bytes_with_states(master_weights);
  }
};

/// Lists the operands of work on one sub-group.
template <Device D>
class GroupOperands {
 public:
  GroupOperands(EngineCore<D>& core, const SubGroup& group)
      : core_{core}, group_{group}, space_{core.states.spaces[group.space]} {}

  /// Master weights, or what of them is not in the parameters, then the optimizer's states.
  StatesOperand add_states(Operand::Access access) {
    StatesOperand states{.master_weights = space_.master, .capacity = group_.elements};
    if (group_.states.bytes == 0) return states;
    states.operand = list_.size();
    list_.push_back({core_.placement.tier(group_.states_on), group_.states, 0, group_.states.bytes, access});
    return states;
  }

  /// What is changed is read after those.
  void await_states(const std::vector<Completion>& written) {
    for (Operand& operand : list_) {
      if (operand.access != Operand::Access::change) continue;
      operand.ready.insert(operand.ready.end(), written.begin(), written.end());
    }
  }

  /// The accumulated gradients; to be read.
  RunOperands add_gradients() {
    const std::size_t width = element_bytes(core_.accumulator_type(space_.type));
    const auto accumulator = [&](std::size_t parameter) -> const GradientAccumulator& {
      return core_.states.uses[core_.states.parameters[parameter].uses.front()].gradient;
    };
    if (space_.gradients.bytes > 0) {
      const RunOperands runs = add_together(core_.placement.gradients, space_.gradients, width, Operand::Access::read);
      for (const ShardRun& run : group_.runs) {
        const std::vector<Completion>& ready = accumulator(run.parameter).ready;
        list_.back().ready.insert(list_.back().ready.end(), ready.begin(), ready.end());
      }
      list_.back().staged =
          accumulator(group_.runs.front().parameter).staged_values(list_.back().offset, list_.back().bytes);
      return runs;
    }
    return add_apart(width, [&](const ParameterRecord& parameter, const ShardRun& run, std::size_t bytes) {
      const GradientAccumulator& gradient = accumulator(run.parameter);
      const std::size_t first = parameter.partition.first(core_.shard_of(parameter)) + run.first_in_shard;
      return Operand{core_.placement.gradients, gradient.extent, first * width, bytes, Operand::Access::read,
                     gradient.ready,            gradient.staged_values(first * width, bytes)};
    });
  }

  /// The parameters, on their tier or in this rank's part of the replicas, to be written.
  RunOperands add_parameters() { return add_parameters(Operand::Access::write); }

  /// The same, to be updated: those that are master weights, or half of them, are read too.
  RunOperands add_parameters_to_update() {
    return add_parameters(space_.master == MasterPlace::with_states ? Operand::Access::write : Operand::Access::change);
  }

  std::span<const Operand> list() const noexcept { return list_; }

 private:
  RunOperands add_parameters(Operand::Access access) {
    const std::size_t width = element_bytes(space_.type);
    if (space_.residence == Residence::partitioned) {
      return add_together(core_.placement.parameters, space_.parameters, width, access);
    }
    return add_apart(width, [&](const ParameterRecord& parameter, const ShardRun& run, std::size_t bytes) {
      const std::size_t shard = core_.shard_of(parameter) * parameter.shard_bytes();
      return Operand{core_.replicas, core_.states.replicas, parameter.replica + shard + run.first_in_shard * width,
                     bytes, access};
    });
  }

  RunOperands add_together(TierRef tier, const Extent& extent, std::size_t width, Operand::Access access) {
    list_.push_back({tier, extent, group_.first * width, group_.elements * width, access});
    return {RunOperands::Layout::together, list_.size() - 1, width};
  }

  template <class MakeOperand>
  RunOperands add_apart(std::size_t width, MakeOperand make) {
    const std::size_t first = list_.size();
    for (const ShardRun& run : group_.runs) {
      list_.push_back(make(core_.states.parameters[run.parameter], run, run.elements * width));
    }
    return {RunOperands::Layout::apart, first, width};
  }

  EngineCore<D>& core_;
  const SubGroup& group_;
  const ShardSpace& space_;
  std::vector<Operand> list_;
};

}  // namespace zerospan::inline v0::detail
