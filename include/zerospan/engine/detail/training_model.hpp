/// @file
/// TrainingModel: an engine from the end of declaration on: leases, and what becomes of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gather_path.hpp>
#include <zerospan/engine/detail/gradient_path.hpp>
#include <zerospan/engine/detail/lease_table.hpp>
#include <zerospan/engine/detail/optimizer_step.hpp>
#include <zerospan/engine/detail/state_access.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// Hands out leases on the working memory of a pipeline, and makes steps.
///
/// Readers of a parameter are counted: the first of them brings it (with what is gathered beside it, as one buffer);
/// the buffer goes when all of its readers have. A write lease is a private copy of a parameter; publishing it replaces
/// the parameter everywhere. Each use of a parameter has one gradient under way at a time, and commits it at most once
/// a micro-batch.
template <Device D>
class TrainingModel {
 public:
  using AnyOptimizer = typename GroupUpdates<D>::AnyOptimizer;

  /// @param optimizer Outlives it. @throws BudgetError if a parameter, or its gradient, does not fit alone.
  TrainingModel(EngineCore<D>& core, const AnyOptimizer& optimizer, Allocation working_memory)
      : core_{core},
        updates_{core, optimizer},
        gathers_{core, updates_},
        path_{core, updates_},
        access_{core},
        step_{core, path_, updates_, core.options.loss_scale},
        leases_{core.states},
        readers_(core.states.parameters.size()),
        pipeline_{WorkingMemory{std::move(working_memory)}, core.options.prefetch,
                  [this](UseKey key, std::byte* data, std::vector<Completion> after) {
                    return gathers_.fetch(key, GatherFor::reading, pass(), data, after);
                  },
                  D::lanes_type::is_unified ? 2 : IntervalPlan::usual_gathers_ahead} {
    check_each_fits();
  }
  TrainingModel(const TrainingModel&) = delete;
  TrainingModel& operator=(const TrainingModel&) = delete;

  /// Begins the first pass; the parameters have their values.
  void start() { pipeline_.begin_pass(static_cast<std::uint8_t>(Pass::training)); }

  /// @throws as ParameterStore::gather, before anything has changed.
  void gather(StreamRef stream, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) {
    check_stream(stream);
    std::vector<std::size_t> missing;
    ++gathers_asked_;
    for (const ParameterId id : ids) {
      const std::size_t p = core_.states.use(id).parameter;
      if (readers_[p].is_written) throw_lease_error(core_.states.use(id).name + " is leased for writing");
      const bool is_whole = core_.states.parameters[p].residence == Residence::replicated || readers_[p].data;
      if (!is_whole && std::exchange(readers_[p].asked, gathers_asked_) != gathers_asked_) missing.push_back(p);
      if (!is_whole) updates_.check_old(p);
    }
    if (!missing.empty()) bring(stream, std::move(missing));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::size_t p = core_.states.use(ids[i]).parameter;
      Readers& readers = readers_[p];
      ++readers.count;
      if (readers.data) {
        ++buffers_.at(readers.offset).readers;
        data[i] = readers.data;
      } else {
        await_update(stream, core_.states.parameters[p]);
        data[i] = core_.replica_of(core_.states.parameters[p]);
      }
      leases[i] = leases_.add({LeaseRecord::Kind::read, ids[i], stream, {}});
    }
  }

  /// @throws as ParameterStore::gather_for_write.
  LeaseId gather_for_write(StreamRef stream, ParameterId id, WriteContent content, std::byte*& data) {
    check_stream(stream);
    const std::size_t p = core_.states.use(id).parameter;
    const ParameterRecord& parameter = core_.states.parameters[p];
    if (content == WriteContent::current) updates_.check_old(p);
    if (readers_[p].count > 0 || readers_[p].data || readers_[p].is_written) {
      throw_lease_error(core_.states.use(id).name + " cannot be leased for writing beside " + leases_.held());
    }
    auto buffer = pipeline_.acquire_untraced(parameter.gathered_bytes());
    if (!buffer) leases_.refuse("the write lease of " + parameter.name, parameter.gathered_bytes(), pipeline_);
    std::vector<Completion> ready = std::exchange(buffer->ready, {});
    if (content == WriteContent::current) ready = copy_of(p, buffer->data, std::move(ready));
    for (const Completion& each : ready) core_.lanes.wait(stream, each, {OperationKind::all_gather, parameter.name});
    readers_[p].is_written = true;
    data = buffer->data;
    return leases_.add({LeaseRecord::Kind::write, id, stream, *std::move(buffer)});
  }

  /// @throws ConfigurationError if there is no such rank.
  void publish(LeaseId id, Rank source) {
    const LeaseRecord& lease = leases_[id];
    if (source.value < 0 || source.value >= core_.communicator.size()) {
      throw_configuration_error("there is no rank " + std::to_string(source.value) + " to publish from");
    }
    updates_.settle();
    await_replica_uses();
    access_.replace(core_.states.use(lease.use).parameter, lease.buffer.data, source, core_.lanes.record(lease.stream));
    end(lease);
    leases_.remove(id);
  }

  /// @throws as ParameterStore::gradients.
  void gradients(StreamRef stream, std::span<const ParameterId> ids, GradientContent content,
                 std::span<std::byte*> data, std::span<LeaseId> leases) {
    check_stream(stream);
    std::vector<OverlapPipeline::Buffer> buffers;
    std::size_t marked = 0;
    try {
      for (; marked < ids.size(); ++marked) {
        check_can_commit(ids[marked]);
        core_.states.use(ids[marked]).gradient_leased = true;
      }
      for (const ParameterId id : ids) {
        auto buffer = pipeline_.acquire(gradient_key(id), gradient_bytes(id));
        if (!buffer) leases_.refuse("the gradient of " + core_.states.use(id).name, gradient_bytes(id), pipeline_);
        buffers.push_back(*std::move(buffer));
      }
    } catch (...) {
      for (const ParameterId id : ids.first(marked)) core_.states.use(id).gradient_leased = false;
      for (OverlapPipeline::Buffer& taken : buffers) pipeline_.release(taken.offset, std::move(taken.ready));
      throw;
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ParameterUse& use = core_.states.use(ids[i]);
      std::vector<Completion> ready = std::exchange(buffers[i].ready, {});
      if (content == GradientContent::zeros) ready = {fill_with_zeros(ids[i], buffers[i].data, std::move(ready))};
      for (const Completion& each : ready) core_.lanes.wait(stream, each, {OperationKind::reduce_scatter, use.name});
      data[i] = buffers[i].data;
      leases[i] = leases_.add({LeaseRecord::Kind::gradient, ids[i], stream, std::move(buffers[i])});
    }
  }

  void commit(LeaseId id) {
    const LeaseRecord& lease = leases_[id];
    commit_buffer(lease.use, lease.buffer, core_.lanes.record(lease.stream));
    leases_.remove(id);
  }

  void discard(LeaseId id) {
    end(leases_[id]);
    leases_.remove(id);
  }

  /// Takes a lease back, of any kind.
  void release(LeaseId id) {
    if (!leases_.is_ended(id)) {
      const LeaseRecord& lease = leases_[id];
      if (lease.kind == LeaseRecord::Kind::gradient) forgotten_.push_back(lease.use);
      end(lease);
    }
    leases_.remove(id);
  }

  /// Commits zeros. @throws as `gradients`.
  void skip(ParameterId id) {
    check_can_commit(id);
    auto buffer = pipeline_.acquire(gradient_key(id), gradient_bytes(id));
    if (!buffer) leases_.refuse("the gradient of " + core_.states.use(id).name, gradient_bytes(id), pipeline_);
    const Completion zeros = fill_with_zeros(id, buffer->data, std::exchange(buffer->ready, {}));
    commit_buffer(id, *buffer, zeros);
  }

  /// @throws LeaseError while leases are held.
  void begin(Pass pass) {
    if (this->pass() == pass && pipeline_.pass_is_empty()) return;
    leases_.check_nothing_held("begin()");
    using Start = OverlapPipeline::Start;
    pipeline_.turn_to(static_cast<std::uint8_t>(pass), pass == Pass::training ? Start::at_once : Start::at_first_lease);
  }

  Pass pass() const { return static_cast<Pass>(pipeline_.pass()); }

  /// Drops what was committed since the last step, and ends all leases.
  /// @throws LeaseError if something was updated by it already.
  void abandon() {
    if (updates_.has_begun()) {
      throw_lease_error("abandon() after gradients of the batch have updated parameters (UpdateTime::during_backward)");
    }
    leases_.end_all([this](const LeaseRecord& lease) { end(lease); });
    for (ParameterUse& use : core_.states.uses) use.gradient.forget();
    forgotten_.clear();
    restart_pass();
  }

  /// @throws LeaseError while leases are held, or with gradients committed since the last step.
  void check_between_steps(const char* call) const {
    leases_.check_nothing_held(call);
    for (const ParameterUse& use : core_.states.uses) {
      if (use.gradient.commits > 0) {
        throw_lease_error(std::string{call} + " after the gradient of " + use.name +
                          " was committed; call it between steps");
      }
    }
  }

  /// @param micro_batches How often each gradient may have been committed.
  /// @throws LeaseError if this is no time for a step: leases are held, or a gradient was forgotten, or committed too
  /// often or too seldom.
  void check_step(std::size_t micro_batches, Commits commits) const {
    leases_.check_nothing_held("step()");
    if (!forgotten_.empty()) {
      throw_lease_error("step() after the lease of the gradient of " + core_.states.use(forgotten_.front()).name +
                        " ended without commit() or discard(): what was written there is lost; abandon() drops the "
                        "batch");
    }
    for (const ParameterUse& use : core_.states.uses) {
      if (use.gradient.commits > micro_batches) {
        throw_lease_error("step() of " + std::to_string(micro_batches) + " micro-batches, but the gradient of " +
                          use.name + " was committed " + std::to_string(use.gradient.commits) + " times");
      }
      const bool is_short = use.gradient.commits > 0 && use.gradient.commits < micro_batches;
      if (is_short && commits == Commits::in_every_micro_batch) {
        throw_lease_error("step() of " + std::to_string(micro_batches) +
                          " micro-batches with gradients in every one, but the gradient of " + use.name +
                          " was committed " + std::to_string(use.gradient.commits) +
                          " times; commit it for each micro-batch, or skip() it there; abandon() drops the batch");
      }
    }
  }

  /// @throws ConfigurationError if the optimizer's settings are not those that updates of this step have had.
  void check_settings() const { updates_.check_settings(); }

  /// @param micro_batches, told, refusal @see OptimizerStep::run
  StepOutcome step(std::size_t micro_batches, std::span<const NamedValue> told, const std::exception_ptr& refusal) {
    await_replica_uses();
    pipeline_.end_pass();
    try {
      const StepOutcome outcome = step_.run(micro_batches, told, refusal);
      pipeline_.begin_pass(static_cast<std::uint8_t>(Pass::training));
      return outcome;
    } catch (...) {
      pipeline_.begin_pass(static_cast<std::uint8_t>(Pass::training));
      throw;
    }
  }

  float loss_scale() const noexcept { return step_.loss_scale(); }

  /// Waits until everything is at rest that steps have posted, and nothing of it is in staging memory.
  void synchronize() { updates_.settle(); }

  void let_read(const std::shared_ptr<StatesBeingRead>& reader) { updates_.let_read(reader); }

  void visit_masters(const MasterVisitor& visitor) {
    updates_.settle();
    access_.visit(visitor);
  }

  /// Shows this rank's part of the model's states. @throws LeaseError if this is not between steps.
  void visit_states(std::span<const StateArray> arrays, Bytes buffer,
                    std::span<const std::vector<StatesRange>> left_out, const StatesVisitor& visitor) {
    check_between_steps("for_each_state()");
    updates_.settle();
    access_.visit_own(PieceMemory{arrays, buffer}, left_out, visitor);
  }

  /// Changes states and progress (a collective). @throws LeaseError if this is not between steps.
  void edit_states(std::span<const StateArray> arrays, const StatesEditor& editor, const EditOptions& options) {
    check_between_steps("edit_states()");
    const PieceMemory memory{arrays, options.buffer};
    updates_.settle();
    await_replica_uses();
    const std::uint8_t pass = pipeline_.pass();
    pipeline_.end_pass();  // what was prefetched is about to change
    try {
      access_.edit_own(memory, options.content, editor);
      if (options.progress) step_.resume_from(*options.progress);
      pipeline_.begin_pass(pass);
    } catch (...) {
      pipeline_.begin_pass(pass);
      throw;
    }
  }

  TrainingProgress progress() const { return step_.progress(); }

  const StateAccess<D>& access() const noexcept { return access_; }

  PipelineCounters prefetch_counters() const { return pipeline_.counters(); }
  const OverlapPipeline& pipeline() const noexcept { return pipeline_; }

  /// See `WorkingMemory::forfeit`.
  void forfeit() noexcept { pipeline_.forfeit(); }

 private:
  struct Readers {
    std::size_t count = 0;
    std::byte* data = nullptr;  ///< nullptr: not gathered.
    std::size_t offset = 0;     ///< Of the buffer, in working memory.
    bool is_written = false;    ///< Leased for writing.
    std::uint64_t asked = 0;    ///< The last gather that missed it.
  };

  struct Buffer {
    std::vector<std::size_t> parameters;
    std::size_t readers = 0;
    std::vector<Completion> last_uses;
  };

  /// On a device that has no streams, a stream's handle would be taken for the calling thread.
  static void check_stream(StreamRef stream) {
    if (D::lanes_type::is_unified && !stream.is_calling_thread()) {
      throw_configuration_error(
          "a lease on a device without streams is taken on zerospan::calling_thread, and not on "
          "the stream of another device");
    }
  }

  /// Gathers parameters that are not whole, as one group.
  void bring(StreamRef stream, std::vector<std::size_t> parameters) {
    const UseKey key = gathers_.key_of(parameters);
    const auto buffer = pipeline_.acquire(key, gathers_.bytes(key));
    if (!buffer) leases_.refuse("the gather of " + gathers_.name(key), gathers_.bytes(key), pipeline_);
    for (const Completion& ready : buffer->ready) {
      core_.lanes.wait(stream, ready, {OperationKind::all_gather, gathers_.name(key)});
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      readers_[parameters[i]].data = buffer->data + gathers_.offsets(key)[i];
      readers_[parameters[i]].offset = buffer->offset;
    }
    buffers_.emplace(buffer->offset, Buffer{std::move(parameters), 0, {}});
  }

  /// Ends what a lease stands for; `lease` itself is the table's.
  void end(const LeaseRecord& lease) {
    const Completion last_use = core_.lanes.record(lease.stream);
    ParameterUse& use = core_.states.use(lease.use);
    switch (lease.kind) {
      case LeaseRecord::Kind::read:
        end_reading(use.parameter, last_use);
        break;
      case LeaseRecord::Kind::write:
        pipeline_.release_untraced(lease.buffer, {last_use});
        readers_[use.parameter].is_written = false;
        break;
      case LeaseRecord::Kind::gradient:
        use.gradient_leased = false;
        pipeline_.release(lease.buffer.offset, {last_use});
        break;
      case LeaseRecord::Kind::ended:
      case LeaseRecord::Kind::free:
        break;
    }
  }

  void end_reading(std::size_t parameter, const Completion& last_use) {
    Readers& readers = readers_[parameter];
    --readers.count;
    if (!readers.data) return replica_used(last_use);
    const auto buffer = buffers_.find(readers.offset);
    buffer->second.last_uses.push_back(last_use);
    if (--buffer->second.readers > 0) return;
    const std::size_t offset = readers.offset;
    for (const std::size_t p : buffer->second.parameters) readers_[p].data = nullptr;
    Buffer ended = std::move(buffer->second);
    buffers_.erase(buffer);
    pipeline_.release(offset, std::move(ended.last_uses));
  }

  void replica_used(const Completion& last_use) {
    constexpr std::size_t many = 64;
    if (replica_uses_.size() >= many) std::erase_if(replica_uses_, [](const Completion& use) { return use.done(); });
    if (!last_use.done()) replica_uses_.push_back(last_use);
  }

  /// Replicated parameters are changed in place: what leases have enqueued on their streams reads them first.
  void await_replica_uses() {
    for (const Completion& use : replica_uses_) {
      core_.lanes.wait(calling_thread, use, {OperationKind::compute, "the uses of replicated parameters"});
    }
    replica_uses_.clear();
  }

  /// The replica that a stream will read is the one that the last step has made.
  void await_update(StreamRef stream, ParameterRecord& parameter) {
    for (const Completion& end : parameter.ready) {
      core_.lanes.wait(stream, end, {OperationKind::update, parameter.name});
    }
    if (std::ranges::all_of(parameter.ready, &Completion::done)) parameter.ready.clear();
  }

  /// Posts the copy of a parameter into `data`. @return Its ends.
  std::vector<Completion> copy_of(std::size_t index, std::byte* data, std::vector<Completion> after) {
    const ParameterRecord& parameter = core_.states.parameters[index];
    if (parameter.residence == Residence::partitioned) {
      return gathers_.fetch(gathers_.key_of({index}), GatherFor::writing, pass(), data, after);
    }
    const std::size_t bytes = parameter.gathered_bytes();
    after.insert(after.end(), parameter.ready.begin(), parameter.ready.end());
    return {core_.lanes.post(Lane::copy, std::move(after), {OperationKind::copy, parameter.name, bytes},
                             [from = core_.replica_of(parameter), data, bytes](auto& stream) -> Completion {
                               copy_bytes(stream, data, from, bytes);
                               return {};
                             })};
  }

  static UseKey gradient_key(ParameterId id) { return {UseKind::gradient, static_cast<std::uint32_t>(id)}; }

  std::size_t gradient_bytes(ParameterId id) const {
    const ParameterUse& use = core_.states.uses[static_cast<std::size_t>(id)];
    return core_.gradient_buffer_bytes(use, core_.states.parameters[use.parameter]);
  }

  Completion fill_with_zeros(ParameterId id, std::byte* data, std::vector<Completion> after) {
    const std::size_t bytes = gradient_bytes(id);
    return core_.lanes.post(Lane::copy, std::move(after), {OperationKind::fill, core_.states.use(id).name, bytes},
                            [data, bytes](auto& stream) -> Completion {
                              fill_zero(stream, data, bytes);
                              return {};
                            });
  }

  /// @throws LeaseError if the use can have no further gradient now.
  void check_can_commit(ParameterId id) const {
    const ParameterUse& use = core_.states.uses[static_cast<std::size_t>(id)];
    if (!core_.states.parameters[use.parameter].trains()) {
      throw_lease_error(use.name + " is frozen: it has no gradient");
    }
    if (use.gradient_leased) throw_lease_error("the gradient of " + use.name + " is leased already");
    if (use.gradient.commits == core_.options.micro_batches) {
      throw_lease_error("the gradient of " + use.name + " was committed " + std::to_string(use.gradient.commits) +
                        " times in this step, once a micro-batch; a further use of the parameter is declared by tie()");
    }
  }

  /// @param written The end of what wrote the gradient.
  void commit_buffer(ParameterId id, const OverlapPipeline::Buffer& buffer, Completion written) {
    ParameterUse& use = core_.states.use(id);
    use.gradient_leased = false;
    pipeline_.release(buffer.offset, path_.commit(use, buffer.data, {std::move(written)}));
  }

  void restart_pass() {
    pipeline_.end_pass();
    pipeline_.begin_pass(static_cast<std::uint8_t>(Pass::training));
  }

  /// Whatever fits alone can be gathered, if not beside others. @throws BudgetError for what does not.
  void check_each_fits() const {
    for (std::size_t u = 0; u < core_.states.uses.size(); ++u) {
      const ParameterUse& use = core_.states.uses[u];
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      if (parameter.residence == Residence::partitioned && parameter.gathered_bytes() > pipeline_.capacity()) {
        leases_.refuse("the gather of " + use.name, parameter.gathered_bytes(), pipeline_);
      }
      const std::size_t bytes = gradient_bytes(static_cast<ParameterId>(u));
      if (parameter.has_states() && bytes > pipeline_.capacity()) {
        leases_.refuse("the gradient of " + use.name, bytes, pipeline_);
      }
    }
  }

  EngineCore<D>& core_;
  GroupUpdates<D> updates_;
  GatherPath<D> gathers_;
  GradientPath<D> path_;
  StateAccess<D> access_;
  OptimizerStep<D> step_;
  LeaseTable leases_;
  std::vector<Readers> readers_;  ///< Of each parameter.
  std::uint64_t gathers_asked_ = 0;
  std::map<std::size_t, Buffer> buffers_;
  std::vector<Completion> replica_uses_;  ///< The ends of what may still read replicated parameters.
  std::vector<ParameterId> forgotten_;    ///< Whose gradient leases ended without a word since the last step.
  OverlapPipeline pipeline_;
};

}  // namespace zerospan::inline v0::detail
