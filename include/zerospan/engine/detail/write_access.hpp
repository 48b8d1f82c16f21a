/// @file
/// WriteAccess: whole parameters that the host changes between steps.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gather_path.hpp>
#include <zerospan/engine/detail/lease_table.hpp>
#include <zerospan/engine/detail/master_access.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// A write lease is a private copy of a parameter; publishing it replaces the parameter everywhere.
template <TrainingCommunicator C, Device D>
class WriteAccess {
 public:
  WriteAccess(EngineCore<C, D>& core, GatherPath<C, D>& gathers, const LeaseTable& leases)
      : core_{core}, gathers_{gathers}, leases_{leases}, masters_{core} {}

  bool is_writing(std::size_t parameter) const { return writing_.contains(parameter); }

  /// A copy of the parameter, in memory outside of every trace. @throws BudgetError if it does not fit.
  OverlapPipeline::Buffer acquire(OverlapPipeline& pipeline, StreamRef stream, std::size_t index) {
    const ParameterRecord& parameter = core_.states.parameters[index];
    auto buffer = pipeline.acquire_untraced(parameter.gathered_bytes());
    if (!buffer) leases_.refuse("the write lease of " + parameter.name, parameter.gathered_bytes(), pipeline);
    const Completion ready = copy(index, buffer->data, std::exchange(buffer->ready, {}));
    core_.lanes.wait(stream, ready, {OperationKind::all_gather, parameter.name});
    writing_.insert(index);
    return *buffer;
  }

  /// @param written The end of what the host has enqueued. @throws ConfigurationError if there is no such rank.
  void publish(std::size_t parameter, std::byte* data, Rank source, const Completion& written) {
    if (source.value < 0 || source.value >= core_.communicator.size()) {
      throw_configuration_error("there is no rank " + std::to_string(source.value) + " to publish from");
    }
    masters_.replace(parameter, data, source, written);
  }

  void release(OverlapPipeline& pipeline, std::size_t parameter, const OverlapPipeline::Buffer& buffer,
               Completion last_use) {
    pipeline.release_untraced(buffer, {std::move(last_use)});
    writing_.erase(parameter);
  }

 private:
  Completion copy(std::size_t index, std::byte* data, std::vector<Completion> after) {
    const ParameterRecord& parameter = core_.states.parameters[index];
    if (parameter.residence == Residence::partitioned) {
      return gathers_.fetch(gathers_.key_of({index}), GatherFor::writing, data, after);
    }
    const std::size_t bytes = parameter.gathered_bytes();
    return core_.lanes.post(Lane::copy, std::move(after), {OperationKind::copy, parameter.name, bytes},
                            [from = core_.replica_of(parameter), data, bytes](auto& stream) -> Completion {
                              copy_bytes(stream, data, from, bytes);
                              return {};
                            });
  }

  EngineCore<C, D>& core_;
  GatherPath<C, D>& gathers_;
  const LeaseTable& leases_;
  MasterAccess<C, D> masters_;
  std::set<std::size_t> writing_;
};

}  // namespace zerospan::inline v0::detail
