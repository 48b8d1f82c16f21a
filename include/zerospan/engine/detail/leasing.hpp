/// @file
/// Leasing: the leases of an engine, of every kind.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gather_path.hpp>
#include <zerospan/engine/detail/gradient_access.hpp>
#include <zerospan/engine/detail/lease_table.hpp>
#include <zerospan/engine/detail/read_access.hpp>
#include <zerospan/engine/detail/write_access.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// What ParameterStore says of leases, on a pipeline.
template <TrainingCommunicator C, Device D>
class Leasing {
 public:
  explicit Leasing(EngineCore<C, D>& core)
      : core_{core},
        gathers_{core},
        leases_{core.states},
        readers_{core, gathers_, leases_},
        writers_{core, gathers_, leases_},
        gradients_{core, leases_} {}

  GatherPath<C, D>& gathers() noexcept { return gathers_; }
  GradientAccess<C, D>& gradients() noexcept { return gradients_; }

  void check_nothing_held(const char* call) const { leases_.check_nothing_held(call); }

  void gather(OverlapPipeline& pipeline, StreamRef stream, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) {
    std::vector<std::size_t> parameters;
    for (const ParameterId id : ids) {
      parameters.push_back(core_.states.use(id).parameter);
      if (writers_.is_writing(parameters.back())) {
        throw_lease_error(core_.states.use(id).name + " is leased for writing");
      }
    }
    readers_.acquire(pipeline, stream, parameters);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      data[i] = readers_.data(parameters[i]);
      leases[i] = leases_.add({LeaseRecord::Kind::read, ids[i], stream, {}});
    }
  }

  LeaseId gather_for_write(OverlapPipeline& pipeline, StreamRef stream, ParameterId id, std::byte*& data) {
    const std::size_t parameter = core_.states.use(id).parameter;
    if (readers_.is_gathered(parameter) || writers_.is_writing(parameter)) {
      throw_lease_error(core_.states.use(id).name + " cannot be leased for writing beside " + leases_.held());
    }
    const OverlapPipeline::Buffer buffer = writers_.acquire(pipeline, stream, parameter);
    data = buffer.data;
    return leases_.add({LeaseRecord::Kind::write, id, stream, buffer});
  }

  void publish(LeaseId id, Rank source) {
    const LeaseRecord& lease = leases_[id];
    writers_.publish(core_.states.use(lease.use).parameter, lease.buffer.data, source,
                     core_.lanes.record(lease.stream));
  }

  LeaseId gradient(OverlapPipeline& pipeline, StreamRef stream, ParameterId id, std::byte*& data) {
    const OverlapPipeline::Buffer buffer = gradients_.acquire(pipeline, stream, id);
    data = buffer.data;
    return leases_.add({LeaseRecord::Kind::gradient, id, stream, buffer});
  }

  void commit(OverlapPipeline& pipeline, LeaseId id) {
    LeaseRecord& lease = leases_[id];
    lease.kind = LeaseRecord::Kind::committed;
    gradients_.commit(pipeline, lease.use, lease.buffer, core_.lanes.record(lease.stream));
  }

  void end(OverlapPipeline& pipeline, LeaseId id) {
    const LeaseRecord& lease = leases_[id];
    const std::size_t parameter = core_.states.use(lease.use).parameter;
    const Completion last_use = core_.lanes.record(lease.stream);
    switch (lease.kind) {
      case LeaseRecord::Kind::read:
        readers_.release(pipeline, parameter, last_use);
        break;
      case LeaseRecord::Kind::write:
        writers_.release(pipeline, parameter, lease.buffer, last_use);
        break;
      case LeaseRecord::Kind::gradient:
        gradients_.release(pipeline, lease.use, lease.buffer, last_use);
        break;
      case LeaseRecord::Kind::committed:
      case LeaseRecord::Kind::free:
        break;
    }
    leases_.remove(id);
  }

  /// Whatever fits alone can be gathered, if not beside others. @throws BudgetError for what does not.
  void check_each_fits(const OverlapPipeline& pipeline) const {
    for (const ParameterUse& use : core_.states.uses) {
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      if (parameter.residence == Residence::partitioned && parameter.gathered_bytes() > pipeline.capacity()) {
        leases_.refuse("the gather of " + use.name, parameter.gathered_bytes(), pipeline);
      }
      if (parameter.trainable() && gradients_.bytes(use) > pipeline.capacity()) {
        leases_.refuse("the gradient of " + use.name, gradients_.bytes(use), pipeline);
      }
    }
  }

 private:
  EngineCore<C, D>& core_;
  GatherPath<C, D> gathers_;
  LeaseTable leases_;
  ReadAccess<C, D> readers_;
  WriteAccess<C, D> writers_;
  GradientAccess<C, D> gradients_;
};

}  // namespace zerospan::inline v0::detail
