/// @file
/// OptimizerStep: from accumulated gradients to new parameters.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/agreement.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gradient_path.hpp>
#include <zerospan/engine/detail/group_updates.hpp>
#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>

namespace zerospan::inline v0::detail {

/// Takes the norm, clips, and has sub-groups updated, or skips the step. It ends when that is decided.
template <Device D>
class OptimizerStep {
 public:
  OptimizerStep(EngineCore<D>& core, GradientPath<D>& gradients, GroupUpdates<D>& updates,
                const std::optional<DynamicLossScale>& loss_scale)
      : core_{core}, gradients_{gradients}, updates_{updates}, loss_scale_{loss_scale} {}

  float loss_scale() const noexcept { return loss_scale_.value(); }

  TrainingProgress progress() const { return {steps_, skipped_in_a_row_, loss_scale_.state()}; }

  /// Goes on from there.
  void resume_from(const TrainingProgress& progress) noexcept {
    steps_ = progress.step;
    skipped_in_a_row_ = progress.skipped_in_a_row;
    if (progress.loss_scale) loss_scale_.restore(*progress.loss_scale);
  }

  /// Ends before the updates do: each of them is waited for by who needs it, and all of them by the next step.
  /// @throws ConfigurationError, on all ranks, if updates are made during the backward pass and the norm is not finite.
  /// @param micro_batches Of this step.
  /// @param told What every rank must have been told alike for this step.
  /// @param refusal Why this rank cannot make the step, if it cannot: all ranks learn of it, and none changes anything.
  StepOutcome run(std::size_t micro_batches, std::span<const NamedValue> told, const std::exception_ptr& refusal) {
    if (!updates_.has_begun()) updates_.finish();
    core_.verify_calls();
    for (ParameterRecord& parameter : core_.states.parameters) gradients_.join_uses(parameter);
    const double mean_factor =
        1.0 / static_cast<double>(core_.contributors() * micro_batches) / double{loss_scale_.value()};
    const double norm = total_norm(told) * mean_factor;
    if (refusal) std::rethrow_exception(refusal);

    const bool finite = std::isfinite(norm);
    const bool is_spoiled = !finite && core_.options.updates == UpdateTime::during_backward;
    if (finite) {
      const double clip = norm > core_.options.max_gradient_norm ? core_.options.max_gradient_norm / norm : 1.0;
      updates_.begin(static_cast<float>(clip * mean_factor));
    } else {
      updates_.give_up();
    }
    for (ParameterUse& use : core_.states.uses) use.gradient.forget();
    if (is_spoiled) {
      throw_configuration_error(
          "a gradient is infinite or NaN, and updates during the backward pass cannot be skipped: the model may be "
          "spoiled; load a checkpoint, and train with UpdateTime::after_step");
    }
    const float scale = loss_scale_.value();
    loss_scale_.advance(finite);
    skipped_in_a_row_ = finite ? 0 : skipped_in_a_row_ + 1;
    return {++steps_, norm, !finite, skipped_in_a_row_, scale, loss_scale_.value()};
  }

 private:
  /// The norm of the accumulated gradients; waits for them. In the same message ranks compare what they were told.
  double total_norm(std::span<const NamedValue> told) {
    std::vector<Completion> ends;
    for (const ParameterUse& use : core_.states.uses) ends.push_back(use.gradient.summed);
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

  EngineCore<D>& core_;
  GradientPath<D>& gradients_;
  GroupUpdates<D>& updates_;
  LossScale loss_scale_;
  std::int64_t steps_ = 0;
  std::int64_t skipped_in_a_row_ = 0;
};

}  // namespace zerospan::inline v0::detail
