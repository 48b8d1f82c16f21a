/// @file
/// The one engine of a device: what declares, sealed into what trains.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/floating_point.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/agreement.hpp>
#include <zerospan/engine/detail/declaring_model.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/state_placement.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/detail/training_model.hpp>

namespace zerospan::inline v0::detail {

/// Brackets every call of the host, and serves one thread at a time. Declaration is over at the first call that needs
/// the parameters' values; from then on there is a `TrainingModel`.
template <Device D>
class EngineOfDevice final : public Engine {
 public:
  using AnyOptimizer = OptimizerInterface<StreamOf<D>>;

  EngineOfDevice(AnyCommunicator communicator, D& device, const Placement& placement,
                 std::shared_ptr<const AnyOptimizer> optimizer, const EngineOptions& options, StageRules stage)
      : memory_{device.memory()},
        host_memory_{device.host_memory()},
        optimizer_{std::move(optimizer)},
        state_bytes_{optimizer_->state_bytes(block_elements)},
        core_{std::move(communicator), device, placement, options, stage},
        sizes_{core_, state_bytes_, narrowest(*optimizer_)},
        replicas_{core_.replicas},
        space_{core_.placement, replicas_},
        declaring_{core_, memory_, space_, sizes_},
        states_{core_, device, space_, sizes_} {
    check_floating_point_environment();
    check_updates(options);
  }

  ParameterId declare(ParameterDeclaration declaration) override {
    const Call call{*this, "a declaration"};
    check_declaring(declaration.name);
    return declaring_.declare(std::move(declaration));
  }

  ParameterId tie(ParameterId parameter, std::string name) override {
    const Call call{*this, "tie()"};
    check_declaring(name);
    return declaring_.tie(parameter, std::move(name));
  }

  void gather(StreamRef stream, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) override {
    const Call call{*this, "gather()"};
    model().gather(stream, ids, data, leases);
  }

  LeaseId gather_for_write(StreamRef stream, ParameterId id, WriteContent content, std::byte*& data) override {
    const Call call{*this, "write()"};
    return model().gather_for_write(stream, id, content, data);
  }

  void publish(LeaseId id, Rank source) override {
    const Call call{*this, "commit()"};
    model().publish(id, source);
  }

  void gradients(StreamRef stream, std::span<const ParameterId> ids, GradientContent content,
                 std::span<std::byte*> data, std::span<LeaseId> leases) override {
    const Call call{*this, "gradient()"};
    model().gradients(stream, ids, content, data, leases);
  }

  void commit(LeaseId id) override {
    const Call call{*this, "commit()"};
    model().commit(id);
  }

  void discard(LeaseId id) override {
    const Call call{*this, "discard()"};
    model().discard(id);
  }

  void release(LeaseId id) noexcept override {
    if (closed_) return;
    core_.lanes.enter();
    try {
      training_->release(id);
    } catch (...) {
      core_.lanes.fail(std::current_exception());
    }
    core_.lanes.leave();
  }

  void skip(ParameterId id) override {
    const Call call{*this, "skip()"};
    model().skip(id);
  }

  void set_training(ParameterId id, Training training) override {
    const Call call{*this, "freezing"};
    if (training_) training_->check_between_steps("freezing");
    ParameterRecord& parameter = core_.states.parameter_of(id);
    if (!parameter.has_states()) {
      if (training == Training::frozen) return;
      throw_lease_error(parameter.name + " was declared frozen: it has no optimizer states, and stays frozen");
    }
    parameter.is_frozen = training == Training::frozen;
    frozen_.clear();
    for (const ParameterRecord& each : core_.states.parameters) {
      if (each.is_frozen) frozen_ += (frozen_.empty() ? "" : ", ") + each.name;
    }
  }

  Training training(ParameterId id) const override {
    return core_.states.parameters[core_.states.uses[static_cast<std::size_t>(id)].parameter].trains()
               ? Training::trainable
               : Training::frozen;
  }

  StepOutcome step(const StepOptions& options) override {
    const Call call{*this, "step()"};
    const std::size_t micro_batches = options.micro_batches.value_or(core_.options.micro_batches);
    if (micro_batches == 0 || micro_batches > core_.options.micro_batches) {
      throw_configuration_error("a step of " + std::to_string(micro_batches) +
                                " micro-batches; the engine's options say " +
                                std::to_string(core_.options.micro_batches));
    }
    TrainingModel<D>& training = this->model();
    training.check_step(micro_batches, options.commits);
    std::exception_ptr refusal;
    NamedValue why{"what refuses the step", "nothing"};
    try {
      check_floating_point_environment();
      check_states_size();
      optimizer_->validate();
      training.check_settings();
    } catch (const Error& error) {
      refusal = std::current_exception();
      why.value = error.what();
    }
    std::vector<NamedValue> told{std::move(why)};
    tell_optimizer(told);
    told.push_back({"the number of micro-batches of this step", std::to_string(micro_batches)});
    told.push_back(
        {"the kind of the pass before this step", training.pass() == Pass::training ? "training" : "evaluation"});
    told.push_back({"the list of frozen parameters", frozen_.empty() ? "empty" : frozen_});
    told.push_back({"the number of batches abandoned so far", std::to_string(abandoned_)});
    return training.step(micro_batches, told, refusal);
  }

  void begin(Pass pass) override {
    const Call call{*this, "begin()"};
    model().begin(pass);
  }

  void abandon() override {
    const Call call{*this, "abandon()"};
    model().abandon();
    ++abandoned_;
  }

  void synchronize() override {
    const Call call{*this, "synchronize()"};
    model().synchronize();
  }

  float loss_scale() const noexcept override {
    if (training_) return training_->loss_scale();
    return core_.options.loss_scale ? core_.options.loss_scale->initial : 1.0F;
  }

  void for_each_master(const MasterVisitor& visitor) override {
    const Call call{*this, "for_each_master()"};
    model().visit_masters(visitor);
  }

  void for_each_state(const StatesVisitor& visitor, Bytes buffer,
                      std::span<const std::vector<StatesRange>> left_out) override {
    const Call call{*this, "for_each_state()"};
    const std::vector<StateArray> arrays = state_arrays();
    model().visit_states(arrays, buffer, left_out, visitor);
  }

  void edit_states(const StatesEditor& editor, const EditOptions& options) override {
    const Call call{*this, "edit_states()"};
    const std::vector<StateArray> arrays = state_arrays();
    TrainingModel<D>& training = model();
    if (options.progress) check_progress(*options.progress);
    training.edit_states(arrays, editor, options);
  }

  TrainingProgress progress() const override {
    if (training_) return training_->progress();
    return {0, 0, LossScale{core_.options.loss_scale}.state()};
  }

  EngineDescription describe() override {
    const Call call{*this, "a checkpoint"};
    std::vector<StateArray> arrays = state_arrays();
    const TrainingModel<D>& training = model();
    training.check_between_steps("a checkpoint");
    const SettingsRecord record = optimizer_->settings();
    EngineDescription result{.place = core_.place(),
                             .places = core_.contributors(),
                             .seed = core_.options.seed,
                             .progress = training.progress(),
                             .optimizer = record.kind.data(),
                             .settings = {},
                             .states = std::move(arrays),
                             .parameters = {}};
    for (std::size_t i = 0; i < record.count; ++i) {
      result.settings.emplace_back(record.settings[i].name.data(), record.settings[i].value);
    }
    for (const ParameterRecord& parameter : core_.states.parameters) {
      const auto [first, elements] = training.access().held(parameter);
      result.parameters.push_back({parameter.name, parameter.shape, parameter.type, parameter.options.training,
                                   parameter.master == MasterPlace::split, parameter.updates, first, elements});
    }
    return result;
  }

  std::vector<StatesPlace> places_of_states() override {
    const Call call{*this, "a checkpoint"};
    const std::vector<StateArray> arrays = state_arrays();
    TrainingModel<D>& training = model();
    training.check_between_steps("a checkpoint");
    return training.access().places_of_own(arrays);
  }

  std::vector<FrozenPlace> places_of_frozen() override {
    const Call call{*this, "an import"};
    TrainingModel<D>& training = model();
    training.check_between_steps("an import");
    training.synchronize();
    return training.access().places_of_frozen();
  }

  void let_read(const std::shared_ptr<StatesBeingRead>& reader) override {
    const Call call{*this, "a checkpoint"};
    model().let_read(reader);
  }

  void sum_over_ranks(std::span<std::int64_t> integers, const char* name) override {
    const Call call{*this, "a checkpoint"};
    core_.sum_aside(integers, name);
  }

  Statistics statistics() const override {
    Statistics result{};
    for (const ParameterRecord& parameter : core_.states.parameters) result.parameters += parameter.shape.elements();
    result.operations = core_.lanes.counters();
    result.bytes_read = result.operations[OperationKind::read].bytes;
    result.bytes_written = result.operations[OperationKind::write].bytes;
    if (training_) result.prefetch = training_->prefetch_counters();
    return result;
  }

  Requirements requirements() const override {
    std::size_t forward = 0;
    std::size_t backward = 0;
    for (std::size_t u = 0; u < core_.states.uses.size(); ++u) {
      const ParameterUse& use = core_.states.uses[u];
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      const std::size_t gathered = parameter.residence == Residence::partitioned ? parameter.gathered_bytes() : 0;
      const std::size_t gradient = parameter.has_states() ? core_.gradient_buffer_bytes(use, parameter) : 0;
      forward = std::max(forward, round_up(gathered, WorkingMemory::alignment));
      backward = std::max(backward,
                          round_up(gathered, WorkingMemory::alignment) + round_up(gradient, WorkingMemory::alignment));
    }
    const auto pages = [](std::size_t bytes) { return round_up(bytes, Arena::alignment); };
    const ReservedSpace::Counts& totals = space_.totals();
    std::size_t on_device = pages(totals.replicas);
    std::size_t on_host = 0;
    if constexpr (!D::lanes_type::is_unified) {
      const std::size_t mirrored =
          pages(core_.exchange.bytes()) + pages(core_.states.uses.size() * ExactSum::limb_count * sizeof(std::int64_t));
      on_device += mirrored;
      on_host += mirrored;
    }
    Requirements result;
    for (std::size_t k = 0; k < state_kinds; ++k) {
      if (totals.states[k] == 0) continue;
      const auto kind = static_cast<StateKind>(k);
      const TierRef tier = core_.placement.tier(kind);
      const std::size_t bytes = totals.states[k] + (kind == StateKind::optimizer ? most_left_of_share() : 0);
      const std::size_t in_memory = pages(bytes) + Arena::alignment * most_extents(kind);
      if (tier.addressable() == Addressable::on_device) on_device += in_memory;
      if (tier.addressable() == Addressable::on_host) on_host += in_memory;
      result.tiers.push_back({std::string{tier.name()}, Bytes{bytes}});
    }
    result.device_forward = Bytes{on_device + forward};
    result.device_backward = Bytes{on_device + std::max(forward, backward)};
    result.host = core_.least_host_bytes(on_host, sizes_.staged_bytes(sizes_.alignment()));
    return result;
  }

  MemoryAccount memory() const override {
    MemoryAccount account{{}, {}};
    const auto add = [&](MemoryPurpose purpose, TierRef tier, std::size_t reserved, std::size_t used) {
      if (reserved == 0 && used == 0) return;
      account.lines.push_back(
          {purpose, std::string{tier.name()}, tier.addressable(), Bytes{reserved}, Bytes{used}, Bytes{used}});
    };
    const ReservedSpace::Counts& reserved = space_.totals();
    const ReservedSpace::Counts& placed = space_.placed();
    const auto add_kind = [&](MemoryPurpose purpose, StateKind kind) {
      const auto k = static_cast<std::size_t>(kind);
      add(purpose, core_.placement.tier(kind), reserved.states[k], placed.states[k]);
    };
    add_kind(MemoryPurpose::parameters, StateKind::parameters);
    add(MemoryPurpose::replicas, replicas_, reserved.replicas, placed.replicas);
    add_kind(MemoryPurpose::group_copies, StateKind::group_copies);
    add_kind(MemoryPurpose::gradients, StateKind::gradients);
    for (const StateKind kind : {StateKind::optimizer, StateKind::optimizer_share}) {
      const auto k = static_cast<std::size_t>(kind);
      add(MemoryPurpose::master_weights, core_.placement.tier(kind), reserved.masters[k], placed.masters[k]);
    }
    for (const StateKind kind : {StateKind::optimizer, StateKind::optimizer_share}) {
      const auto k = static_cast<std::size_t>(kind);
      add(MemoryPurpose::optimizer_states, core_.placement.tier(kind), reserved.states[k] - reserved.masters[k],
          placed.states[k] - placed.masters[k]);
    }
    add_memory(account);
    return account;
  }

  std::vector<std::optional<Rank>> owners() const override {
    std::vector<std::optional<Rank>> result;
    for (const ParameterRecord& parameter : core_.states.parameters) result.push_back(parameter.partition.owner);
    return result;
  }

  void close(bool unwinding) noexcept override {
    if (unwinding) core_.communicator.abort("its engine was destroyed by an exception");
    closed_ = true;
    for (const auto& reader : core_.readers) reader->stop();
    if (core_.lanes.drain()) {
      states_.remove_extents();
    } else {
      core_.staging.forfeit();  // what a lost transfer may still touch is nobody's any more
      if (training_) training_->forfeit();
    }
  }

 private:
  /// Brackets a call of the host. @throws LeaseError if the engine is closed, or serves a call already.
  class Call {
   public:
    Call(EngineOfDevice& engine, const char* name) : engine_{engine} {
      if (engine.closed_) throw_lease_error("the engine of this parameter is gone");
      std::thread::id nobody;
      if (!engine.caller_.compare_exchange_strong(nobody, std::this_thread::get_id())) {
        throw_lease_error(nobody == std::this_thread::get_id()
                              ? std::string{name} + " is called from within a callback of the same engine"
                              : std::string{name} + " is called while another thread is in the same engine");
      }
      try {
        engine.core_.lanes.check();
        engine.core_.lanes.enter();
      } catch (...) {
        engine.caller_ = std::thread::id{};
        throw;
      }
    }
    ~Call() {
      engine_.core_.lanes.leave();
      engine_.caller_ = std::thread::id{};
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    EngineOfDevice& engine_;
  };

  /// Adds what is in no tier.
  void add_memory(MemoryAccount& account) const {
    const std::string device = memory_.name();
    const auto add = [&](MemoryPurpose purpose, const std::string& arena, Addressable where, std::size_t reserved,
                         std::size_t used, std::size_t peak) {
      if (peak > 0) account.lines.push_back({purpose, arena, where, Bytes{reserved}, Bytes{used}, Bytes{peak}});
    };
    const std::size_t staging = core_.staging.capacity();
    add(MemoryPurpose::staging, host_memory_.name(), Addressable::on_host, staging, staging, staging);
    if constexpr (!D::lanes_type::is_unified) {
      const std::size_t bytes = core_.exchange.bytes() + (core_.norms ? core_.norms->bytes() : 0);
      add(MemoryPurpose::exchange, device, Addressable::on_device, bytes, bytes, bytes);
      add(MemoryPurpose::exchange, host_memory_.name(), Addressable::on_host, bytes, bytes, bytes);
    }
    if (!training_) return;
    account.working = Bytes{training_->pipeline().capacity()};
    constexpr std::array purposes{MemoryPurpose::gathered, MemoryPurpose::gradient_buffers, MemoryPurpose::written};
    for (std::size_t use = 0; use < working_uses; ++use) {
      const WorkingBytes bytes = training_->pipeline().bytes_of(static_cast<WorkingUse>(use));
      add(purposes[use], device, Addressable::on_device, 0, bytes.now, bytes.peak);
    }
  }

  /// What trains; declaration ends at the first call.
  TrainingModel<D>& model() {
    if (!training_) seal();
    return *training_;
  }

  /// @throws ConfigurationError if what decides on a step comes after its updates.
  static void check_updates(const EngineOptions& options) {
    if (options.updates == UpdateTime::after_step) return;
    const auto refuse = [](const std::string& what) {
      throw_configuration_error("updates during the backward pass (UpdateTime::during_backward) together with " + what +
                                ", which is decided on after that pass");
    };
    if (std::isfinite(options.max_gradient_norm)) refuse("the clipping of gradients (max_gradient_norm)");
    if (options.loss_scale) refuse("a dynamic loss scale (loss_scale)");
  }

  void seal() {
    check_states_size();
    try {
      if (core_.contributors() > 1) check_ranks_agree(core_, all_told());
      core_.grow_staging(host_memory_, sizes_.wanted_staging());
      states_.place(core_.least_over_ranks(sizes_.largest_group(), "the sub-group size"));
      const std::size_t bytes = core_.least_over_ranks(memory_.largest_free(), "the working memory");
      auto training = std::make_unique<TrainingModel<D>>(core_, *optimizer_, memory_.allocate_working(Bytes{bytes}));
      for (const Completion& end : states_.fill()) {
        core_.lanes.wait(calling_thread, end, {OperationKind::fill, "initial parameters"});
      }
      core_.prepare_aside();
      training->start();
      training_ = std::move(training);
    } catch (...) {
      core_.lanes.fail(std::current_exception());
      throw;
    }
  }

  /// In how many extents states of a kind are placed at most: one for each space of shards, or for each sub-group, and
  /// one for each gradient that is in no space.
  std::size_t most_extents(StateKind kind) const {
    std::set<std::array<int, 4>> spaces;
    std::size_t apart = 0;
    for (const ParameterRecord& parameter : core_.states.parameters) {
      spaces.insert({static_cast<int>(parameter.type), static_cast<int>(parameter.residence),
                     int{parameter.has_states()}, int{parameter.partition.owner.has_value()}});
      if (kind == StateKind::gradients && parameter.has_states() && core_.holds(parameter)) {
        apart += parameter.uses.size() - std::size_t{sizes_.gradients_follow_shards()};
      }
    }
    return spaces.size() + sizes_.elements_in_spaces() / sizes_.fitting_group() + apart;
  }

  /// Bytes of the optimizer's states that were reserved as a share, and may stay with the others: sub-groups are not
  /// divided.
  std::size_t most_left_of_share() const {
    if (!core_.placement.optimizer_share) return 0;
    return sizes_.states_bytes(std::min(sizes_.fitting_group(), sizes_.elements_in_spaces()));
  }

  /// Space is reserved, placed and updated by this size.
  void check_states_size() const {
    if (optimizer_->state_bytes(block_elements) != state_bytes_) {
      throw_configuration_error("the optimizer's states have changed their size since the engine was made");
    }
  }

  void check_declaring(const std::string& name) const {
    check_states_size();
    if (training_) throw_configuration_error("parameter " + name + " is declared after the first gather");
  }

  /// Bytes of the narrowest element of parameters and states.
  static std::size_t narrowest(const AnyOptimizer& optimizer) {
    std::size_t bytes = sizeof(bfloat16);
    for (const StateArray& array : optimizer.state_arrays().value_or(std::vector<StateArray>{})) {
      bytes = std::min(bytes, array.width().bytes);
    }
    return bytes;
  }

  /// What the optimizer's states are. @throws ConfigurationError if it does not say, or not of all their bytes.
  std::vector<StateArray> state_arrays() const {
    check_states_size();
    if (state_bytes_ == 0) return {};
    const std::string name = optimizer_->settings().kind.data();
    const std::optional<std::vector<StateArray>> arrays = optimizer_->state_arrays();
    if (!arrays) {
      throw_configuration_error("the optimizer " + name +
                                " does not say what its states are (state_arrays()): they can be neither saved nor "
                                "loaded");
    }
    std::size_t bytes = 0;
    for (const StateArray& array : *arrays) bytes += array.width().of(block_elements);
    if (bytes != state_bytes_) {
      throw_configuration_error("the optimizer " + name + " names states of " + std::to_string(bytes) +
                                " bytes, and has " + std::to_string(state_bytes_) + " bytes for " +
                                std::to_string(block_elements) + " elements");
    }
    const auto is_scales = [](const StateArray& array) { return array.form == StateForm::scales; };
    if (!std::ranges::is_partitioned(*arrays, std::not_fn(is_scales))) {
      throw_configuration_error("the optimizer " + name + " names an array behind its scales: these are to be last");
    }
    return *arrays;
  }

  /// @throws ConfigurationError, on every rank, if no training can stand there, or ranks were told different things.
  void check_progress(const TrainingProgress& progress) {
    const LossScaleState scale = progress.loss_scale.value_or(LossScaleState{});
    const std::array<NamedValue, 4> told{
        {{"the number of steps made", std::to_string(progress.step)},
         {"the number of steps skipped in a row", std::to_string(progress.skipped_in_a_row)},
         {"the loss scale", progress.loss_scale ? in_words(double{scale.value}) : "none"},
         {"the number of good steps in a row", std::to_string(scale.good_steps)}}};
    if (core_.contributors() > 1) check_ranks_agree(core_, told);
    if (progress.step < 0 || progress.skipped_in_a_row < 0) {
      throw_configuration_error("a training cannot have made " + std::to_string(progress.step) +
                                " steps, and skipped " + std::to_string(progress.skipped_in_a_row) + " in a row");
    }
    int exponent = 0;
    if (!(scale.value > 0 && std::frexp(scale.value, &exponent) == 0.5F)) {
      throw_configuration_error("the loss scale is " + told[2].value + ", not a power of two");
    }
  }

  void tell_optimizer(std::vector<NamedValue>& told) const {
    const SettingsRecord record = optimizer_->settings();
    told.push_back({"the optimizer", record.kind.data()});
    for (std::size_t i = 0; i < record.count; ++i) {
      told.push_back({record.settings[i].name.data(), in_words(record.settings[i].value)});
    }
    told.push_back({"the fingerprint of the optimizer's settings", std::to_string(record.fingerprint)});
  }

  /// Everything that ranks must have been told alike before the first pass.
  std::vector<NamedValue> all_told() const {
    const EngineOptions& options = core_.options;
    std::vector<NamedValue> told;
    const auto tell = [&told](std::string name, std::string value) {
      told.push_back({std::move(name), std::move(value)});
    };
    const StageRules stage = core_.stage;
    tell("the stage", std::to_string(int{stage.partitions_optimizer} + int{stage.partitions_gradients} +
                                     int{stage.partitions_parameters}));
    tell_optimizer(told);
    tell("seed", std::to_string(options.seed));
    tell("micro_batches", std::to_string(options.micro_batches));
    tell("master_weights", options.master_weights == MasterWeights::whole ? "whole" : "split");
    tell("updates", options.updates == UpdateTime::after_step ? "after the step" : "during the backward pass");
    tell("persistence_threshold", std::to_string(options.persistence_threshold.count));
    tell("max_gradient_norm", in_words(double{options.max_gradient_norm}));
    tell("prefetch", options.prefetch ? std::to_string(options.prefetch->count) : "chosen by the engine");
    tell("partition", std::string{options.partition.name()});
    tell("the fingerprint of the partitioner's settings", std::to_string(options.partition.fingerprint()));
    tell("the alignment of shards, for the tiers of the placement,", std::to_string(sizes_.alignment()) + " elements");
    tell("the placement of group copies", core_.placement.group_copies ? "a tier" : "none");
    tell("the loss scale", options.loss_scale ? "dynamic" : "none");
    if (options.loss_scale) {
      const DynamicLossScale& scale = *options.loss_scale;
      tell("loss scale: initial", in_words(double{scale.initial}));
      tell("loss scale: growth_factor", in_words(double{scale.growth_factor}));
      tell("loss scale: backoff_factor", in_words(double{scale.backoff_factor}));
      tell("loss scale: growth_interval", std::to_string(scale.growth_interval));
      tell("loss scale: minimum", in_words(double{scale.minimum}));
      tell("loss scale: maximum", in_words(double{scale.maximum}));
    }
    for (std::size_t u = 0; u < core_.states.uses.size(); ++u) {
      tell("parameter " + std::to_string(u), description(u));
    }
    return told;
  }

  /// "wte float32 [256, 64], trainable, ..."
  std::string description(std::size_t index) const {
    const ParameterUse& use = core_.states.uses[index];
    const ParameterRecord& parameter = core_.states.parameters[use.parameter];
    if (parameter.uses.front() != index) return use.name + ", tied to " + parameter.name;
    std::string text = use.name + " " + std::string{to_string(parameter.type)} + " [";
    for (std::size_t i = 0; i < parameter.shape.rank(); ++i) {
      text += (i > 0 ? ", " : "") + std::to_string(parameter.shape[i]);
    }
    text += parameter.has_states() ? "], trainable" : "], frozen";
    const ParameterGroup& group = parameter.options.group;
    text += ", learning rate factor " + in_words(double{group.learning_rate_factor}) + ", weight decay factor " +
            in_words(double{group.weight_decay_factor}) + ", " + description(parameter.initializer);
    return text;
  }

  /// Initializers of the host's own are not compared.
  static std::string description(const Initializer& initializer) {
    if (const auto* constant = initializer.target<ConstantValues>()) {
      return "constant " + in_words(double{constant->value});
    }
    if (const auto* normal = initializer.target<NormalValues>()) {
      return "normal " + in_words(double{normal->standard_deviation});
    }
    if (const auto* uniform = initializer.target<UniformValues>()) {
      return "uniform " + in_words(double{uniform->bound});
    }
    if (const auto* part = initializer.target<PartOfMatrix>()) return "a part of " + description(part->whole);
    return "an initializer of the host's own";
  }

  Arena& memory_;
  Arena& host_memory_;
  std::shared_ptr<const AnyOptimizer> optimizer_;
  std::size_t state_bytes_;  ///< Of a block.
  EngineCore<D> core_;
  StateSizes<D> sizes_;
  TierRef replicas_;  ///< Where replicas rest.
  ReservedSpace space_;
  DeclaringModel<D> declaring_;
  StatePlacement<D> states_;
  std::unique_ptr<TrainingModel<D>> training_;  ///< From the end of declaration on.
  std::string frozen_;                          ///< The parameters that are frozen for now.
  std::int64_t abandoned_ = 0;
  std::atomic<std::thread::id> caller_;
  bool closed_ = false;
};

template <class D>
std::shared_ptr<Engine> make_engine(AnyCommunicator communicator, D& device, const Placement& placement,
                                    std::shared_ptr<const OptimizerInterface<StreamOf<D>>> optimizer,
                                    const EngineOptions& options, StageRules stage) {
  return std::make_shared<EngineOfDevice<D>>(std::move(communicator), device, placement, std::move(optimizer), options,
                                             stage);
}

}  // namespace zerospan::inline v0::detail
