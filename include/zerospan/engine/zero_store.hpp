/// @file
/// ZeroStore: the parameter store behind a ZeroEngine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/admission.hpp>
#include <zerospan/engine/birth.hpp>
#include <zerospan/engine/engine_core.hpp>
#include <zerospan/engine/gather_path.hpp>
#include <zerospan/engine/gradient_access.hpp>
#include <zerospan/engine/lease_table.hpp>
#include <zerospan/engine/master_access.hpp>
#include <zerospan/engine/optimizer_step.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/read_access.hpp>
#include <zerospan/engine/reserved_space.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/write_access.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/overlap_pipeline.hpp>

namespace zerospan::inline v0 {

/// Puts the parts of an engine together: leases on the outside, the pipeline and the ways of bytes inside.
template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class ZeroStore final : public ParameterStore {
 public:
  ZeroStore(C& communicator, D& device, const Placement& placement, O optimizer, const EngineOptions& options)
      : memory_{device.memory()},
        optimizer_{std::move(optimizer)},
        core_{communicator.duplicate(), device, placement, options},
        space_{core_.placement},
        admission_{core_, memory_, space_, optimizer_},
        birth_{core_, device, space_, optimizer_},
        gathers_{core_},
        leases_{core_.states},
        readers_{core_, gathers_, leases_},
        writers_{core_, gathers_, leases_},
        gradients_{core_, leases_},
        step_{core_, gradients_, options.loss_scale},
        state_bytes_{optimizer_.state_bytes(block_elements)} {}

  ParameterId declare(ParameterDeclaration declaration) override {
    const Call call{*this};
    check_declaring(declaration.name);
    const auto before = space_.counts();
    try {
      ParameterRecord parameter = admission_.admit(std::move(declaration));
      ParameterUse use = admission_.admit_use(parameter.name, core_.states.parameters.size(), parameter);
      core_.states.parameters.push_back(std::move(parameter));
      admission_.keep(core_.states.parameters.back());
      return add_use(std::move(use));
    } catch (...) {
      space_.cancel_since(before);
      throw;
    }
  }

  ParameterId tie(ParameterId parameter, std::string name) override {
    const Call call{*this};
    check_declaring(name);
    const std::size_t index = core_.states.use(parameter).parameter;
    return add_use(admission_.admit_use(std::move(name), index, core_.states.parameters[index]));
  }

  void gather(StreamRef stream, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) override {
    const Call call{*this};
    seal();
    std::vector<std::size_t> parameters;
    for (const ParameterId id : ids) {
      parameters.push_back(core_.states.use(id).parameter);
      if (writers_.is_writing(parameters.back()))
        throw_lease_error(core_.states.use(id).name + " is leased for writing");
    }
    readers_.acquire(*pipeline_, stream, parameters);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      data[i] = readers_.data(parameters[i]);
      leases[i] = leases_.add({LeaseRecord::Kind::read, ids[i], stream, {}});
    }
  }

  LeaseId gather_for_write(StreamRef stream, ParameterId id, std::byte*& data) override {
    const Call call{*this};
    seal();
    const std::size_t parameter = core_.states.use(id).parameter;
    if (readers_.is_gathered(parameter) || writers_.is_writing(parameter)) {
      throw_lease_error(core_.states.use(id).name + " cannot be leased for writing beside " + leases_.held());
    }
    const OverlapPipeline::Buffer buffer = writers_.acquire(*pipeline_, stream, parameter);
    data = buffer.data;
    return leases_.add({LeaseRecord::Kind::write, id, stream, buffer});
  }

  void publish(LeaseId id, Rank source) override {
    const Call call{*this};
    const LeaseRecord& lease = leases_[id];
    writers_.publish(core_.states.use(lease.use).parameter, lease.buffer.data, source,
                     core_.lanes.record(lease.stream));
  }

  LeaseId gradient(StreamRef stream, ParameterId id, std::byte*& data) override {
    const Call call{*this};
    seal();
    const OverlapPipeline::Buffer buffer = gradients_.acquire(*pipeline_, stream, id);
    data = buffer.data;
    return leases_.add({LeaseRecord::Kind::gradient, id, stream, buffer});
  }

  void commit(LeaseId id) override {
    const Call call{*this};
    LeaseRecord& lease = leases_[id];
    lease.kind = LeaseRecord::Kind::committed;
    gradients_.commit(*pipeline_, lease.use, lease.buffer, core_.lanes.record(lease.stream));
  }

  void skip(ParameterId id) override {
    const Call call{*this};
    seal();
    gradients_.skip(*pipeline_, id);
  }

  void release(LeaseId id) noexcept override {
    if (closed_) return;
    core_.lanes.enter();
    try {
      end_lease(id);
    } catch (...) {
      core_.lanes.fail(std::current_exception());
    }
    core_.lanes.leave();
  }

  StepOutcome step() {
    const Call call{*this};
    seal();
    leases_.check_nothing_held("step()");
    check_states_size();
    return step_.run(optimizer_, *pipeline_);
  }

  void begin(Pass pass) {
    const Call call{*this};
    seal();
    const auto kind = static_cast<std::uint8_t>(pass);
    if (pipeline_->pass() == kind && pipeline_->pass_is_empty()) return;
    leases_.check_nothing_held("begin()");
    pipeline_->end_pass();
    pipeline_->begin_pass(kind);
  }

  void for_each_master(const MasterVisitor& visitor) {
    const Call call{*this};
    seal();
    MasterAccess<C, D>{core_}.visit(visitor);
  }

  float loss_scale() const noexcept { return step_.loss_scale(); }

  O& optimizer() noexcept { return optimizer_; }

  Statistics statistics() const {
    Statistics result{};
    for (const ParameterRecord& parameter : core_.states.parameters) result.parameters += parameter.partition.elements;
    result.operations = core_.lanes.counters();
    result.bytes_read = result.operations[OperationKind::read].bytes;
    result.bytes_written = result.operations[OperationKind::write].bytes;
    if (pipeline_) result.prefetch = pipeline_->counters();
    return result;
  }

  /// Ends the store: leases and parameters are inert from here on.
  /// @param unwinding The rank is failing: its peers are told, instead of waiting for it.
  void close(bool unwinding) noexcept {
    if (unwinding) core_.communicator.abort("its engine was destroyed by an exception");
    closed_ = true;
    if (core_.lanes.drain()) {
      birth_.remove_extents();
    } else {
      core_.staging.forfeit();  // what a lost transfer may still touch is nobody's any more
    }
  }

 private:
  /// Brackets every call of the host.
  class Call {
   public:
    explicit Call(ZeroStore& store) : store_{store} {
      if (store.closed_) throw_lease_error("the engine of this parameter is gone");
      store.core_.lanes.check();
      store.core_.lanes.enter();
    }
    ~Call() { store_.core_.lanes.leave(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    ZeroStore& store_;
  };

  /// Ends declaration, at the first use of the model.
  void seal() {
    if (pipeline_) return;
    check_states_size();
    try {
      core_.check_options_agree();
      birth_.place(core_.least_over_ranks(birth_.largest_group(), "the sub-group size"));
      const std::size_t bytes = core_.least_over_ranks(memory_.largest_free(), "the working memory");
      pipeline_.emplace(WorkingMemory{memory_.allocate_working({bytes})}, core_.options.prefetch,
                        [this](UseKey key, std::byte* data, std::vector<Completion> after) {
                          return gathers_.fetch(key, GatherFor::reading, data, after);
                        });
      check_each_fits();
      for (const Completion& end : birth_.fill()) {
        core_.lanes.wait(calling_thread, end, {OperationKind::fill, "initial parameters"});
      }
      pipeline_->begin_pass(static_cast<std::uint8_t>(Pass::training));
    } catch (...) {
      core_.lanes.fail(std::current_exception());
      throw;
    }
  }

  /// Space is reserved, placed and updated by this size.
  void check_states_size() const {
    if (optimizer_.state_bytes(block_elements) != state_bytes_) {
      throw_configuration_error("the optimizer's states have changed their size since the engine was made");
    }
  }

  void check_declaring(const std::string& name) {
    check_states_size();
    if (pipeline_) throw_configuration_error("parameter " + name + " is declared after the first gather");
    const bool is_taken =
        std::ranges::any_of(core_.states.uses, [&](const ParameterUse& use) { return use.name == name; });
    if (is_taken) throw_configuration_error("two parameters are named " + name);
  }

  ParameterId add_use(ParameterUse use) {
    const std::size_t id = core_.states.uses.size();
    core_.states.parameters[use.parameter].uses.push_back(id);
    core_.states.uses.push_back(std::move(use));
    return static_cast<ParameterId>(id);
  }

  /// Whatever fits alone can be gathered, if not beside others.
  void check_each_fits() const {
    for (const ParameterUse& use : core_.states.uses) {
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      if (parameter.residence == Residence::partitioned && parameter.gathered_bytes() > pipeline_->capacity()) {
        leases_.refuse("the gather of " + use.name, parameter.gathered_bytes(), *pipeline_);
      }
      if (parameter.trainable() && gradients_.bytes(use) > pipeline_->capacity()) {
        leases_.refuse("the gradient of " + use.name, gradients_.bytes(use), *pipeline_);
      }
    }
  }

  void end_lease(LeaseId id) {
    const LeaseRecord& lease = leases_[id];
    const std::size_t parameter = core_.states.use(lease.use).parameter;
    const Completion last_use = core_.lanes.record(lease.stream);
    switch (lease.kind) {
      case LeaseRecord::Kind::read:
        readers_.release(*pipeline_, parameter, last_use);
        break;
      case LeaseRecord::Kind::write:
        writers_.release(*pipeline_, parameter, lease.buffer, last_use);
        break;
      case LeaseRecord::Kind::gradient:
        gradients_.release(*pipeline_, lease.use, lease.buffer, last_use);
        break;
      case LeaseRecord::Kind::committed:
      case LeaseRecord::Kind::free:
        break;
    }
    leases_.remove(id);
  }

  Arena& memory_;
  O optimizer_;
  EngineCore<C, D> core_;
  ReservedSpace space_;
  Admission<S, C, D, O> admission_;
  Birth<S, C, D, O> birth_;
  GatherPath<C, D> gathers_;
  LeaseTable leases_;
  ReadAccess<C, D> readers_;
  WriteAccess<C, D> writers_;
  GradientAccess<C, D> gradients_;
  OptimizerStep<S, C, D> step_;
  std::optional<OverlapPipeline> pipeline_;  ///< From the end of declaration on.
  std::size_t state_bytes_;                  ///< Of a block.
  bool closed_ = false;
};

}  // namespace zerospan::inline v0
