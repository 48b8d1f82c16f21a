/// @file
/// StepRing: the optimizer's step over sub-groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/engine/engine_core.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0 {

/// Updates sub-group after sub-group: while one is updated, the next one's states are read and the last one's are
/// written (ZeRO-Infinity, arXiv 2104.07857, section 5.2.2). Sub-groups without gradients are left alone.
template <TrainingCommunicator C, Device D>
class StepRing {
 public:
  explicit StepRing(EngineCore<C, D>& core) : core_{core} {}

  /// Posts the update of every parameter with a committed gradient, and the publication of replicated ones.
  /// @param gradient_scale The factor from accumulated to effective gradients.
  /// @return The ends of all that was posted.
  template <Optimizer O>
  std::vector<Completion> update(const O& optimizer, float gradient_scale) {
    for (ParameterRecord& parameter : core_.states.parameters) {
      if (has_gradient(parameter)) ++parameter.updates;
    }
    std::vector<Completion> ends;
    for (const SubGroup& group : core_.states.groups) {
      std::vector<RunUpdate> runs = prepare(group);
      if (std::ranges::none_of(runs, &RunUpdate::has_gradient)) continue;
      std::vector<GatherPart> finished = finished_replicas(group);
      const PostedWork posted = post(group, std::move(runs), optimizer, gradient_scale);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
      if (!finished.empty()) {
        ends.push_back(core_.all_gather(std::move(finished), "updated parameters", {posted.work}));
      }
    }
    return ends;
  }

 private:
  /// A run as the lane sees it: nothing in it changes until the step is over.
  struct RunUpdate {
    std::size_t first;
    std::size_t elements;
    const std::byte* gradient;  ///< nullptr: in the sub-group's gradients.
    std::byte* parameter;       ///< nullptr: in the sub-group's parameters.
    std::int64_t step;
    ParameterGroup group;
    bool has_gradient;
  };

  bool has_gradient(const ParameterRecord& parameter) const {
    return parameter.trainable() && core_.states.uses[parameter.uses.front()].gradient.commits > 0;
  }

  std::vector<RunUpdate> prepare(const SubGroup& group) const {
    const ShardSpace& space = core_.states.spaces[group.space];
    std::vector<RunUpdate> runs;
    if (space.training == Training::frozen) return runs;
    for (const ShardRun& run : group.runs) {
      const ParameterRecord& parameter = core_.states.parameters[run.parameter];
      RunUpdate update{run.first_in_group,      run.elements,           nullptr, nullptr, parameter.updates,
                       parameter.options.group, has_gradient(parameter)};
      const GradientAccumulator& gradient = core_.states.uses[parameter.uses.front()].gradient;
      const std::size_t in_shard = run.first_in_shard;
      if (space.gradients.bytes == 0) {
        const std::size_t first = parameter.partition.first(core_.shard_of(parameter)) + in_shard;
        update.gradient = core_.placement.gradients.view(gradient.extent) +
                          first * element_bytes(core_.accumulator_type(parameter.type));
      }
      if (space.residence == Residence::replicated) {
        update.parameter =
            core_.shard_in(parameter, parameter.replica.data()) + in_shard * element_bytes(parameter.type);
      }
      runs.push_back(update);
    }
    return runs;
  }

  template <Optimizer O>
  PostedWork post(const SubGroup& group, std::vector<RunUpdate> runs, const O& optimizer, float gradient_scale) {
    const ShardSpace& space = core_.states.spaces[group.space];
    const ElementType gradient_type = core_.accumulator_type(space.type);
    std::vector<Operand> operands{
        {core_.placement.optimizer, group.states, 0, group.states.bytes, Operand::Access::change}};
    const bool own_gradients = space.gradients.bytes > 0;
    if (own_gradients) {
      const std::size_t width = element_bytes(gradient_type);
      operands.push_back({core_.placement.gradients, space.gradients, group.first * width, group.elements * width,
                          Operand::Access::read});
    }
    const bool own_parameters = space.residence == Residence::partitioned;
    if (own_parameters) {
      const std::size_t width = element_bytes(space.type);
      operands.push_back({core_.placement.parameters, space.parameters, group.first * width, group.elements * width,
                          Operand::Access::write});
    }
    return core_.staging.run(
        Lane::update, {OperationKind::update, group.name, group.states.bytes}, operands, {},
        [=, runs = std::move(runs), capacity = group.elements, type = space.type](
            auto&, std::span<std::byte* const> pointers) {
          auto* const master = reinterpret_cast<float*>(pointers[0]);
          for (const RunUpdate& run : runs) {
            std::byte* const parameter =
                own_parameters ? pointers[1 + own_gradients] + run.first * element_bytes(type) : run.parameter;
            if (!run.has_gradient) {
              from_float(master + run.first, type, parameter, run.elements);
              continue;
            }
            const std::byte* const gradient =
                own_gradients ? pointers[1] + run.first * element_bytes(gradient_type) : run.gradient;
            optimizer.update(ShardUpdate{master, pointers[0] + capacity * sizeof(float), capacity, run.first,
                                         run.elements, gradient, gradient_type, parameter, type, gradient_scale,
                                         run.step, run.group});
          }
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
        parts.push_back({parameter.replica.data(), parameter.shard_bytes()});
      }
    }
    return parts;
  }

  EngineCore<C, D>& core_;
};

}  // namespace zerospan::inline v0
