/// @file
/// GradientAccess: gradients from their lease to their commitment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gradient_path.hpp>
#include <zerospan/engine/detail/lease_table.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// Each use of a parameter has one gradient under way at a time, and commits it at most once a micro-batch.
template <TrainingCommunicator C, Device D>
class GradientAccess {
 public:
  GradientAccess(EngineCore<C, D>& core, const LeaseTable& leases) : core_{core}, path_{core}, leases_{leases} {}

  /// Bytes of working memory that the gradient of a use takes.
  std::size_t bytes(const ParameterUse& use) const {
    return core_.gradient_buffer_bytes(use, core_.states.parameters[use.parameter]);
  }

  /// @throws LeaseError if the use can have no further gradient now; BudgetError if it does not fit.
  OverlapPipeline::Buffer acquire(OverlapPipeline& pipeline, StreamRef stream, ParameterId id) {
    OverlapPipeline::Buffer buffer = take(pipeline, id);
    ParameterUse& use = core_.states.use(id);
    for (const Completion& ready : std::exchange(buffer.ready, {})) {
      core_.lanes.wait(stream, ready, {OperationKind::reduce_scatter, use.name});
    }
    use.gradient_leased = true;
    return buffer;
  }

  /// @param written The end of what the host has enqueued.
  void commit(OverlapPipeline& pipeline, ParameterId id, const OverlapPipeline::Buffer& buffer, Completion written) {
    ParameterUse& use = core_.states.use(id);
    use.gradient_leased = false;
    pipeline.release(buffer.offset, path_.commit(use, buffer.data, {std::move(written)}));
  }

  void release(OverlapPipeline& pipeline, ParameterId id, const OverlapPipeline::Buffer& buffer, Completion last_use) {
    core_.states.use(id).gradient_leased = false;
    pipeline.release(buffer.offset, {std::move(last_use)});
  }

  /// Commits zeros. @throws as `acquire`.
  void skip(OverlapPipeline& pipeline, ParameterId id) {
    OverlapPipeline::Buffer buffer = take(pipeline, id);
    const ParameterUse& use = core_.states.use(id);
    const std::size_t all = bytes(use);
    const Completion zeros =
        core_.lanes.post(Lane::copy, std::exchange(buffer.ready, {}), {OperationKind::fill, use.name, all},
                         [data = buffer.data, all](auto& stream) -> Completion {
                           fill_zero(stream, data, all);
                           return {};
                         });
    commit(pipeline, id, buffer, zeros);
  }

  /// Adds up the gradients of tied uses; the step's beginning.
  void join_uses() {
    for (ParameterRecord& parameter : core_.states.parameters) path_.join_uses(parameter);
  }

  /// The step's end.
  void forget() {
    for (ParameterUse& use : core_.states.uses) use.gradient.commits = 0;
  }

 private:
  OverlapPipeline::Buffer take(OverlapPipeline& pipeline, ParameterId id) {
    const ParameterUse& use = core_.states.use(id);
    check(use);
    auto buffer = pipeline.acquire({UseKind::gradient, static_cast<std::uint32_t>(id)}, bytes(use));
    if (!buffer) leases_.refuse("the gradient of " + use.name, bytes(use), pipeline);
    return *std::move(buffer);
  }

  void check(const ParameterUse& use) const {
    if (!core_.states.parameters[use.parameter].trainable()) {
      throw_lease_error(use.name + " is frozen: it has no gradient");
    }
    if (use.gradient_leased) throw_lease_error("the gradient of " + use.name + " is leased already");
    if (use.gradient.commits == core_.options.micro_batches) {
      throw_lease_error("the gradient of " + use.name + " was committed " + std::to_string(use.gradient.commits) +
                        " times in this step, once a micro-batch; a further use of the parameter is declared by tie()");
    }
  }

  EngineCore<C, D>& core_;
  GradientPath<C, D> path_;
  const LeaseTable& leases_;
};

}  // namespace zerospan::inline v0::detail
