/// @file
/// OptimizerStep: from accumulated gradients to new parameters.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/agreement.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gradient_path.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// Takes the norm, clips, updates or skips, and publishes.
///
/// Sub-group after sub-group is updated: while one is, the next one's states are read and the last one's are written
/// (ZeRO-Infinity, arXiv 2104.07857, section 5.2.2). Sub-groups without gradients are left alone. States that rest in
/// device memory are updated by the device, if the optimizer has an update for it; others by the host.
template <Device D>
class OptimizerStep {
 public:
  using AnyOptimizer = OptimizerInterface<typename EngineCore<D>::stream_type>;

  OptimizerStep(EngineCore<D>& core, GradientPath<D>& gradients, const std::optional<DynamicLossScale>& loss_scale)
      : core_{core}, gradients_{gradients}, loss_scale_{loss_scale} {}

  float loss_scale() const noexcept { return loss_scale_.value(); }

  TrainingProgress progress() const { return {steps_, skipped_in_a_row_, loss_scale_.state()}; }

  /// Goes on from there.
  void resume_from(const TrainingProgress& progress) noexcept {
    steps_ = progress.step;
    skipped_in_a_row_ = progress.skipped_in_a_row;
    if (progress.loss_scale) loss_scale_.restore(*progress.loss_scale);
  }

  /// Ends when everything is at rest again.
  /// @param micro_batches Of this step.
  /// @param told What every rank must have been told alike for this step.
  /// @param refusal Why this rank cannot make the step, if it cannot: all ranks learn of it, and none changes anything.
  StepOutcome run(const AnyOptimizer& optimizer, std::size_t micro_batches, std::span<const NamedValue> told,
                  const std::exception_ptr& refusal) {
    core_.verify_calls();
    for (ParameterRecord& parameter : core_.states.parameters) gradients_.join_uses(parameter);
    const double mean_factor =
        1.0 / static_cast<double>(core_.contributors() * micro_batches) / double{loss_scale_.value()};
    const double norm = total_norm(told) * mean_factor;
    if (refusal) std::rethrow_exception(refusal);

    const bool finite = std::isfinite(norm);
    if (finite) {
      const double clip = norm > core_.options.max_gradient_norm ? core_.options.max_gradient_norm / norm : 1.0;
      const std::shared_ptr<const AnyOptimizer> settings = optimizer.snapshot();
      for (const Completion& end : update_all(settings, static_cast<float>(clip * mean_factor))) {
        core_.lanes.wait(calling_thread, end, {OperationKind::update, "step"});
      }
    }
    for (ParameterUse& use : core_.states.uses) use.gradient.forget();
    const float scale = loss_scale_.value();
    loss_scale_.advance(finite);
    skipped_in_a_row_ = finite ? 0 : skipped_in_a_row_ + 1;
    return {++steps_, norm, !finite, skipped_in_a_row_, scale, loss_scale_.value()};
  }

 private:
  /// A run as the lane sees it: nothing in it changes until the step is over.
  struct RunUpdate {
    ShardRun run;
    std::int64_t step;
    ParameterGroup group;
    bool has_gradient;
  };

  static constexpr bool device_has_own_memory = !D::lanes_type::is_unified;

  /// The norm of the accumulated gradients; waits for them. In the same message ranks compare what they were told.
  double total_norm(std::span<const NamedValue> told) {
    std::vector<Completion> ends;
    for (const ParameterUse& use : core_.states.uses) {
      ends.insert(ends.end(), use.gradient.ready.begin(), use.gradient.ready.end());
    }
    ends = core_.norms->bring_to_host(core_.lanes, "the gradient norm", core_.norms->bytes(), std::move(ends));
    for (const Completion& end : ends) {
      core_.lanes.wait(calling_thread, end, {OperationKind::accumulate, "the gradient norm"});
    }
    ExactSum total;
    const auto* const limbs = reinterpret_cast<const std::int64_t*>(core_.norms->on_host());
    for (const ParameterRecord& parameter : core_.states.parameters) {
      const std::size_t use = parameter.uses.front();
      if (!core_.states.uses[use].gradient.has_sum) continue;
      total.merge(std::span<const std::int64_t, ExactSum::limb_count>{limbs + use * ExactSum::limb_count,
                                                                      ExactSum::limb_count});
    }
    if (core_.contributors() == 1) return std::sqrt(total.value());

    // Below stage 1 every rank has all of the sum already, and each replica has the same one.
    const bool is_part = core_.stage.partitions_optimizer ? core_.replica() == 0 : core_.place() == 0;
    if (!is_part) total = {};
    std::array<std::int64_t, ExactSum::limb_count + Agreement::count> message;
    const auto sums = std::span{message}.template last<Agreement::count>();
    std::ranges::copy(total.limbs(), message.begin());
    const Agreement agreement{told};
    std::ranges::copy(agreement.summands(), sums.begin());
    core_.sum_over_ranks(message, "the gradient norm");
    if (!agreement.holds(sums)) throw_disagreement(core_, told);
    ExactSum of_all;
    of_all.merge(std::span{message}.template first<ExactSum::limb_count>());
    return std::sqrt(of_all.value());
  }

  /// Posts the update of every parameter with a committed gradient, and the publication of replicated ones.
  /// @param optimizer With the settings of this step. It lives on until all that is posted has ended.
  /// @param gradient_scale The factor from accumulated to effective gradients.
  /// @return The ends of all that was posted.
  std::vector<Completion> update_all(const std::shared_ptr<const AnyOptimizer>& optimizer, float gradient_scale) {
    std::vector<const ParameterRecord*> owned;  // replicated ones that have owners
    for (ParameterRecord& parameter : core_.states.parameters) {
      if (!has_gradient(parameter)) continue;
      ++parameter.updates;
      parameter.copy.is_current = false;
      if (parameter.residence == Residence::replicated && parameter.partition.owner) owned.push_back(&parameter);
    }
    std::vector<Completion> ends;
    std::vector<Completion> owned_written;
    for (const SubGroup& group : core_.states.groups) {
      std::vector<RunUpdate> runs = prepare(group);
      if (std::ranges::none_of(runs, &RunUpdate::has_gradient)) continue;
      core_.await_readers(group);
      std::vector<GatherPart> finished = finished_slices(group);
      const PostedWork posted = update_group(group, std::move(runs), optimizer, gradient_scale);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
      if (core_.states.spaces[group.space].residence != Residence::replicated) continue;
      // Replicas are written in place, or, by the host to a device of its own, after the work.
      const std::vector<Completion> written = device_has_own_memory ? posted.ends : std::vector{posted.work};
      if (core_.states.spaces[group.space].is_owned)
        owned_written.insert(owned_written.end(), written.begin(), written.end());
      if (!finished.empty()) ends.push_back(core_.all_gather(std::move(finished), "updated parameters", written));
    }
    if (!owned.empty()) ends.push_back(core_.broadcast_replicas(owned, "updated parameters", std::move(owned_written)));
    return ends;
  }

  bool has_gradient(const ParameterRecord& parameter) const {
    return core_.states.uses[parameter.uses.front()].gradient.has_sum;
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

  PostedWork update_group(const SubGroup& group, std::vector<RunUpdate> runs,
                          const std::shared_ptr<const AnyOptimizer>& optimizer, float gradient_scale) {
    const ElementType type = core_.states.spaces[group.space].type;
    GroupOperands operands{core_, group};
    operands.add_states(Operand::Access::change);
    const RunOperands gradients = operands.add_gradients();
    const RunOperands parameters = operands.add_parameters();
    const Operation operation{OperationKind::update, group.name, group.states.bytes};
    const auto updates_of = [=, runs = std::move(runs), gradient_type = core_.accumulator_type(type),
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
      return updates;
    };
    if constexpr (device_has_own_memory) {
      if (optimizer->updates_on_device() &&
          core_.placement.tier(group.states_on).addressable() == Addressable::on_device) {
        return core_.staging.run(Lane::update, operation, operands.list(), {},
                                 [optimizer, updates_of](auto& stream, std::span<std::byte* const> pointers) {
                                   optimizer->update(stream, updates_of(stream, pointers));
                                 });
      }
    }
    return core_.staging.run_on_host(Lane::update, operation, operands.list(), {},
                                     [optimizer, updates_of](std::span<std::byte* const> pointers) {
                                       StreamRef host = calling_thread;
                                       optimizer->update(updates_of(host, pointers));
                                     });
  }

  /// The sliced replicas whose last run is in `group`, to be gathered from their shards.
  std::vector<GatherPart> finished_slices(const SubGroup& group) const {
    std::vector<GatherPart> parts;
    if (core_.states.spaces[group.space].residence != Residence::replicated) return parts;
    for (const ShardRun& run : group.runs) {
      const ParameterRecord& parameter = core_.states.parameters[run.parameter];
      const bool is_last = run.first_in_shard + run.elements == parameter.shard_elements();
      if (is_last && parameter.partition.shards > 1 && has_gradient(parameter)) {
        parts.push_back({core_.replica_of(parameter), parameter.shard_bytes()});
      }
    }
    return parts;
  }

  EngineCore<D>& core_;
  GradientPath<D>& gradients_;
  LossScale loss_scale_;
  std::int64_t steps_ = 0;
  std::int64_t skipped_in_a_row_ = 0;
};

}  // namespace zerospan::inline v0::detail
