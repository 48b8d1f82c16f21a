/// @file
/// ZeroStore: the parameter store behind a ZeroEngine.
#pragma once

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
#include <zerospan/engine/detail/birth.hpp>
#include <zerospan/engine/detail/declarations.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/leasing.hpp>
#include <zerospan/engine/detail/master_access.hpp>
#include <zerospan/engine/detail/optimizer_step.hpp>
#include <zerospan/engine/detail/option_fingerprint.hpp>
#include <zerospan/engine/detail/reserved_space.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// Puts the parts of an engine together: leases on the outside, the pipeline and the ways of bytes inside.
template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class ZeroStore final : public ParameterStore {
 public:
  ZeroStore(C& communicator, D& device, const Placement& placement, O optimizer, const EngineOptions& options)
      : memory_{device.memory()},
        optimizer_{std::move(optimizer)},
        core_{communicator.duplicate(), device, placement, options},
        space_{core_.placement},
        declarations_{core_, memory_, space_, optimizer_},
        birth_{core_, device, space_, optimizer_},
        leasing_{core_},
        step_{core_, leasing_.gradients(), options.loss_scale},
        state_bytes_{optimizer_.state_bytes(block_elements)} {}

  ParameterId declare(ParameterDeclaration declaration) override {
    const Call call{*this};
    check_declaring(declaration.name);
    return declarations_.declare(std::move(declaration));
  }

  ParameterId tie(ParameterId parameter, std::string name) override {
    const Call call{*this};
    check_declaring(name);
    return declarations_.tie(parameter, std::move(name));
  }

  void gather(StreamRef stream, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) override {
    const Call call{*this};
    seal();
    leasing_.gather(*pipeline_, stream, ids, data, leases);
  }

  LeaseId gather_for_write(StreamRef stream, ParameterId id, std::byte*& data) override {
    const Call call{*this};
    seal();
    return leasing_.gather_for_write(*pipeline_, stream, id, data);
  }

  void publish(LeaseId id, Rank source) override {
    const Call call{*this};
    leasing_.publish(id, source);
  }

  LeaseId gradient(StreamRef stream, ParameterId id, std::byte*& data) override {
    const Call call{*this};
    seal();
    return leasing_.gradient(*pipeline_, stream, id, data);
  }

  void commit(LeaseId id) override {
    const Call call{*this};
    leasing_.commit(*pipeline_, id);
  }

  void skip(ParameterId id) override {
    const Call call{*this};
    seal();
    leasing_.gradients().skip(*pipeline_, id);
  }

  void release(LeaseId id) noexcept override {
    if (closed_) return;
    core_.lanes.enter();
    try {
      leasing_.end(*pipeline_, id);
    } catch (...) {
      core_.lanes.fail(std::current_exception());
    }
    core_.lanes.leave();
  }

  StepOutcome step() {
    const Call call{*this};
    seal();
    leasing_.check_nothing_held("step()");
    check_states_size();
    return step_.run(optimizer_, *pipeline_);
  }

  void begin(Pass pass) {
    const Call call{*this};
    seal();
    const auto kind = static_cast<std::uint8_t>(pass);
    if (pipeline_->pass() == kind && pipeline_->pass_is_empty()) return;
    leasing_.check_nothing_held("begin()");
    using Start = OverlapPipeline::Start;
    pipeline_->turn_to(kind, pass == Pass::training ? Start::at_once : Start::at_first_lease);
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
      core_.check_options_agree(fingerprint<S>(core_.options, core_.placement, state_bytes_));
      birth_.place(core_.least_over_ranks(birth_.largest_group(), "the sub-group size"));
      const std::size_t bytes = core_.least_over_ranks(memory_.largest_free(), "the working memory");
      pipeline_.emplace(WorkingMemory{memory_.allocate_working({bytes})}, core_.options.prefetch,
                        [this](UseKey key, std::byte* data, std::vector<Completion> after) {
                          return leasing_.gathers().fetch(key, GatherFor::reading, data, after);
                        });
      leasing_.check_each_fits(*pipeline_);
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

  void check_declaring(const std::string& name) const {
    check_states_size();
    if (pipeline_) throw_configuration_error("parameter " + name + " is declared after the first gather");
  }

  Arena& memory_;
  O optimizer_;
  EngineCore<C, D> core_;
  ReservedSpace space_;
  Declarations<S, C, D, O> declarations_;
  Birth<S, C, D, O> birth_;
  Leasing<C, D> leasing_;
  OptimizerStep<S, C, D> step_;
  std::optional<OverlapPipeline> pipeline_;  ///< From the end of declaration on.
  std::size_t state_bytes_;                  ///< Of a block.
  bool closed_ = false;
};

}  // namespace zerospan::inline v0::detail
