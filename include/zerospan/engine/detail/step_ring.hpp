/// @file
/// StepRing: the optimizer's step over sub-groups.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// Updates sub-group after sub-group: while one is updated, the next one's states are read and the last one's are
/// written (ZeRO-Infinity, arXiv 2104.07857, section 5.2.2). Sub-groups without gradients are left alone. States that
/// rest in device memory are updated by the device, if it can; others by the host.
template <TrainingCommunicator C, Device D>
class StepRing {
 public:
  explicit StepRing(EngineCore<C, D>& core) : core_{core} {}

  /// Posts the update of every parameter with a committed gradient, and the publication of replicated ones.
  /// @param gradient_scale The factor from accumulated to effective gradients.
  /// @return The ends of all that was posted.
  template <Optimizer O>
  std::vector<Completion> run(const O& optimizer, float gradient_scale) {
    for (ParameterRecord& parameter : core_.states.parameters) {
      if (!has_gradient(parameter)) continue;
      ++parameter.updates;
      parameter.copy.is_current = false;
    }
    std::vector<Completion> ends;
    for (const SubGroup& group : core_.states.groups) {
      std::vector<RunUpdate> runs = prepare(group);
      if (std::ranges::none_of(runs, &RunUpdate::has_gradient)) continue;
      std::vector<GatherPart> finished = finished_replicas(group);
      const PostedWork posted = post(group, std::move(runs), optimizer, gradient_scale);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
      if (!finished.empty()) {
        ends.push_back(core_.all_gather(std::move(finished), "updated parameters", replicas_written(posted)));
      }
    }
    return ends;
  }

 private:
  /// A run as the lane sees it: nothing in it changes until the step is over.
  struct RunUpdate {
    ShardRun run;
    std::int64_t step;
    ParameterGroup group;
    bool has_gradient;
  };

  bool has_gradient(const ParameterRecord& parameter) const {
    return parameter.trainable() && core_.states.uses[parameter.uses.front()].gradient.commits > 0;
  }

  std::vector<RunUpdate> prepare(const SubGroup& group) const {
    std::vector<RunUpdate> runs;
    if (core_.states.spaces[group.space].training == Training::frozen) return runs;
    for (const ShardRun& run : group.runs) {
      const ParameterRecord& parameter = core_.states.parameters[run.parameter];
      runs.push_back({run, parameter.updates, parameter.options.group, has_gradient(parameter)});
    }
    return runs;
  }

  static constexpr bool device_has_own_memory = !D::lanes_type::is_unified;

  /// Replicas are written in place, or, by the host to a device of its own, after the work.
  static std::vector<Completion> replicas_written(const PostedWork& posted) {
    return device_has_own_memory ? posted.ends : std::vector{posted.work};
  }

  template <Optimizer O>
  PostedWork post(const SubGroup& group, std::vector<RunUpdate> runs, const O& optimizer, float gradient_scale) {
    const ElementType type = core_.states.spaces[group.space].type;
    GroupOperands operands{core_, group};
    operands.add_states(Operand::Access::change);
    const RunOperands gradients = operands.add_gradients();
    const RunOperands parameters = operands.add_parameters();
    const Operation operation{OperationKind::update, group.name, group.states.bytes};
    const auto work = [=, runs = std::move(runs), gradient_type = core_.accumulator_type(type),
                       capacity = group.elements](auto& stream, std::span<std::byte* const> pointers) {
      auto* const master = reinterpret_cast<float*>(pointers[0]);
      std::vector<ShardUpdate> updates;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const ShardRun& run = runs[i].run;
        std::byte* const parameter = parameters(pointers, i, run);
        if (runs[i].has_gradient) {
          updates.push_back({master, pointers[0] + capacity * sizeof(float), capacity, run.first_in_group, run.elements,
                             gradients(pointers, i, run), gradient_type, parameter, type, gradient_scale, runs[i].step,
                             runs[i].group});
        } else {
          narrow(stream, master + run.first_in_group, type, parameter, run.elements);
        }
      }
      update(stream, optimizer, std::span<const ShardUpdate>{updates});
    };
    if constexpr (device_has_own_memory && UpdatesOn<O, typename EngineCore<C, D>::stream_type>) {
      if (core_.placement.tier(group.states_on).addressable() == Addressable::on_device) {
        return core_.staging.run(Lane::update, operation, operands.list(), {}, work);
      }
    }
    return core_.staging.run_on_host(Lane::update, operation, operands.list(), {},
                                     [work](std::span<std::byte* const> pointers) {
                                       StreamRef stream = calling_thread;
                                       work(stream, pointers);
                                     });
  }

  /// The replicated parameters whose last run is in `group`, to be gathered from their shards.
  std::vector<GatherPart> finished_replicas(const SubGroup& group) const {
    std::vector<GatherPart> parts;
    if (core_.states.spaces[group.space].residence != Residence::replicated) return parts;
    for (const ShardRun& run : group.runs) {
      const ParameterRecord& parameter = core_.states.parameters[run.parameter];
      const bool is_last = run.first_in_shard + run.elements == parameter.partition.shard_elements;
      if (is_last && parameter.partition.shards > 1 && has_gradient(parameter)) {
        parts.push_back({core_.replica_of(parameter), parameter.shard_bytes()});
      }
    }
    return parts;
  }

  EngineCore<C, D>& core_;
};

}  // namespace zerospan::inline v0::detail
