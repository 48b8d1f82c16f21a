/// @file
/// OptimizerStep: from accumulated gradients to new parameters.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gradient_access.hpp>
#include <zerospan/engine/detail/step_ring.hpp>
#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// Takes the norm, clips, updates, or skips; counts.
template <Stage S, TrainingCommunicator C, Device D>
class OptimizerStep {
 public:
  OptimizerStep(EngineCore<C, D>& core, GradientAccess<C, D>& gradients,
                const std::optional<DynamicLossScale>& loss_scale)
      : core_{core}, gradients_{gradients}, ring_{core}, loss_scale_{loss_scale} {}

  float loss_scale() const noexcept { return loss_scale_.value(); }

  /// Ends when everything is at rest again, and the next training pass has begun.
  template <Optimizer O>
  StepOutcome run(const O& optimizer, OverlapPipeline& pipeline) {
    core_.verify_calls();
    pipeline.end_pass();
    gradients_.join_uses();
    const double norm = gradient_norm();
    const bool finite = std::isfinite(norm);
    if (finite) {
      const double clip = norm > core_.options.max_gradient_norm ? core_.options.max_gradient_norm / norm : 1.0;
      for (const Completion& end : ring_.run(optimizer, static_cast<float>(clip * mean_factor()))) {
        core_.lanes.wait(calling_thread, end, {OperationKind::update, "step"});
      }
    }
    gradients_.forget();
    pipeline.begin_pass(static_cast<std::uint8_t>(Pass::training));
    const float scale = loss_scale_.value();
    loss_scale_.advance(finite);
    skipped_in_a_row_ = finite ? 0 : skipped_in_a_row_ + 1;
    return {++steps_, norm, !finite, skipped_in_a_row_, scale, loss_scale_.value()};
  }

 private:
  /// The factor from a sum over ranks and micro-batches to the mean, unscaled.
  double mean_factor() const {
    return 1.0 / static_cast<double>(core_.contributors() * core_.options.micro_batches) / double{loss_scale_.value()};
  }

  /// Of the mean gradient; waits for the accumulators.
  double gradient_norm() {
    std::vector<Completion> ends;
    for (const ParameterUse& use : core_.states.uses) {
      ends.insert(ends.end(), use.gradient.ready.begin(), use.gradient.ready.end());
    }
    ends = core_.norms->bring_to_host(core_.lanes, "the gradient norm", core_.norms->bytes(), std::move(ends));
    for (const Completion& end : ends) {
      core_.lanes.wait(calling_thread, end, {OperationKind::accumulate, "the gradient norm"});
    }
    ExactSum total;
    const auto* const digits = reinterpret_cast<const std::int64_t*>(core_.norms->on_host());
    for (const ParameterRecord& parameter : core_.states.parameters) {
      const std::size_t use = parameter.uses.front();
      if (core_.states.uses[use].gradient.commits == 0) continue;
      total.merge(std::span<const std::int64_t, ExactSum::limb_count>{digits + use * ExactSum::limb_count,
                                                                      ExactSum::limb_count});
    }
    if (S::partitions_optimizer) {
      if (core_.replica() != 0) total = {};  // the sums of each replica are the same
      core_.sum_over_ranks(total.limbs(), "the gradient norm");
    }
    return std::sqrt(total.value()) * mean_factor();
  }

  EngineCore<C, D>& core_;
  GradientAccess<C, D>& gradients_;
  StepRing<C, D> ring_;
  LossScale loss_scale_;
  std::int64_t steps_ = 0;
  std::int64_t skipped_in_a_row_ = 0;
};

}  // namespace zerospan::inline v0::detail
