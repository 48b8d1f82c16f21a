/// @file
/// GroupUpdater: the update of one sub-group.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// A run as the lane sees it: nothing in it changes until the update is over.
struct RunUpdate {
  ShardRun run;
  std::int64_t step;
  ParameterGroup group;
  bool has_gradient;
};

/// Posts updates of sub-groups. States that rest in device memory are updated by the device, if the optimizer has an
/// update for it; others by the host.
template <Device D>
class GroupUpdater {
 public:
  using AnyOptimizer = OptimizerInterface<typename EngineCore<D>::stream_type>;

  explicit GroupUpdater(EngineCore<D>& core) : core_{core} {}

  /// With these settings of the optimizer, and this factor from accumulated to effective gradients.
  void set(std::shared_ptr<const AnyOptimizer> optimizer, float gradient_scale) {
    optimizer_ = std::move(optimizer);
    gradient_scale_ = gradient_scale;
  }

  /// The optimizer that was set.
  const AnyOptimizer* optimizer() const noexcept { return optimizer_.get(); }

  /// What an update changes and reads: states, gradients, parameters.
  struct UpdateOperands {
    GroupOperands<D> all;
    StatesOperand states;
    RunOperands gradients;
    RunOperands parameters;
  };

  UpdateOperands operands_of(const SubGroup& group) const {
    GroupOperands<D> all{core_, group};
    const StatesOperand states = all.add_states(Operand::Access::change);
    const RunOperands gradients = all.add_gradients();
    const RunOperands parameters = all.add_parameters_to_update();
    return {std::move(all), states, gradients, parameters};
  }

  /// Bytes of staging memory that an update takes.
  std::size_t staged_bytes(const SubGroup& group) const {
    return EngineCore<D>::staging_type::slot_bytes(operands_of(group).all.list(), site_of(group));
  }

  /// @param begun Its slot, if its states were read ahead.
  PostedWork post(const SubGroup& group, const std::vector<RunUpdate>& runs, std::optional<BegunWork> begun) {
    const ElementType type = core_.states.spaces[group.space].type;
    const UpdateOperands operands = operands_of(group);
    const StatesOperand states = operands.states;
    const std::size_t of_master = group.elements * (sizeof(float) - master_bytes_with_states(states.master_weights));
    const Operation operation{OperationKind::update, group.name, group.states.bytes + of_master};
    const auto updates_of = [runs, states, gradients = operands.gradients, parameters = operands.parameters, type,
                             scale = gradient_scale_, gradient_type = core_.accumulator_type(type)](
                                auto& stream, std::span<std::byte* const> pointers) {
      std::vector<ShardUpdate> updates;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const ShardRun& run = runs[i].run;
        std::byte* const parameter = parameters(pointers, i, run);
        float* const master = states.master(pointers, run, parameter);
        if (runs[i].has_gradient) {
          updates.push_back({master, states.optimizer(pointers), states.capacity, run.first_in_group, run.elements,
                             gradients(pointers, i, run), gradient_type, parameter, type, scale, runs[i].step,
                             runs[i].group});
        } else if (states.master_weights == MasterPlace::with_states) {
          narrow(stream, master, type, parameter, run.elements);
        }
      }
      return updates;
    };
    if constexpr (device_has_own_memory) {
      if (optimizer_->updates_on_device() && site_of(group) == Site::device) {
        return core_.staging.run(
            Lane::update, operation, operands.all.list(), {},
            [optimizer = optimizer_, updates_of](auto& stream, std::span<std::byte* const> pointers) {
              optimizer->update(stream, updates_of(stream, pointers));
            });
      }
    }
    const auto work = [optimizer = optimizer_, updates_of, states](std::span<std::byte* const> pointers) {
      StreamRef host = calling_thread;
      const std::vector<ShardUpdate> updates = updates_of(host, pointers);
      if (states.master_weights != MasterPlace::split) return optimizer->update(updates);
      for (const ShardUpdate& update : updates) {
        update_halves(*optimizer, update, states.lower_halves(pointers, update.first));
      }
    };
    if (begun) {
      return core_.staging.run_on_host(Lane::update, operation, operands.all.list(), *std::move(begun), {}, work);
    }
    return core_.staging.run_on_host(Lane::update, operation, operands.all.list(), {}, work);
  }

 private:
  static constexpr bool device_has_own_memory = !D::lanes_type::is_unified;

  Site site_of(const SubGroup& group) const {
    const bool is_on_device = core_.placement.tier(group.states_on).addressable() == Addressable::on_device;
    const bool are_halves = core_.states.spaces[group.space].master == MasterPlace::split;
    return device_has_own_memory && is_on_device && !are_halves ? Site::device : Site::host;
  }

  /// Updates a run whose master weights are the parameter's and these lower halves, piece by piece: each is joined, and
  /// split again, in the first-level cache.
  static void update_halves(const AnyOptimizer& optimizer, const ShardUpdate& run, std::uint16_t* lower) {
    alignas(64) std::array<float, 4 * block_elements> master;
    for (std::size_t done = 0; done < run.elements; done += master.size()) {
      ShardUpdate piece = run.part(done, std::min(master.size(), run.elements - done));
      auto* const upper = reinterpret_cast<bfloat16*>(piece.parameter);
      const std::span joined = std::span{master}.first(piece.elements);
      join(upper, lower + done, joined);
      piece.master = joined.data();
      piece.parameter = reinterpret_cast<std::byte*>(joined.data());
      piece.parameter_type = ElementType::float32;
      optimizer.update({&piece, 1});
      split(joined, upper, lower + done);
    }
  }

  EngineCore<D>& core_;
  std::shared_ptr<const AnyOptimizer> optimizer_;
  float gradient_scale_ = 1.0F;
};

}  // namespace zerospan::inline v0::detail
