/// @file
/// ZeroEngine: stage x communicator x device x placement x optimizer.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/memory_account.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

#if !defined(ZEROSPAN_COMPILED)  // set by the target zerospan::compiled, which has the engine of the host's device
#include <zerospan/engine/detail/make_engine.hpp>
#endif

namespace zerospan::inline v0 {

/// One rank's part of partitioned training. Declare parameters in it, then repeat: gather and compute forward and
/// backward, commit gradients, `step()`.
///
/// Each rank has a device and tiers of its own, and one engine at a time uses a device's memory. The engine and its
/// parameters may be used by any one thread at a time. The first error of anything asynchronous is kept: every later
/// call throws it.
/// @see zerospan/partition/lease.hpp for the lifetime contract.
///
/// Whatever the stage, placement, budgets and prefetch, training gives the same bits for the same world size.
///
/// The micro-batches of a step go through the model one after the other, or together, layer by layer. Then a layer's
/// parameters are gathered once forward and once backward in a step, and not in every micro-batch; the host keeps the
/// activations of all of them. A parameter's gradients are added in the order of its commits: where that is the order
/// of the micro-batches, both ways give the same bits.
/// @code
/// engine.begin(Pass::training);  // one pass for all micro-batches
/// for (const Layer& layer : layers) {
///   const auto weight = layer.weight.gather(stream);  // one lease for all of them
///   for (MicroBatch& each : micro_batches) my::forward(*weight, each);
/// }
/// for (const Layer& layer : reversed(layers)) {
///   for (MicroBatch& each : micro_batches) {
///     auto gradient = layer.weight.gradient(stream);  // one at a time, each committed before the next
///     my::weight_gradient(each, *gradient);
///     gradient.commit();
///   }
///   const auto weight = layer.weight.gather(stream);
///   for (MicroBatch& each : micro_batches) my::input_gradient(*weight, each);
/// }
/// engine.step({.commits = Commits::in_every_micro_batch});  // refuses a loop that was short
/// @endcode
template <class S, class C, class D, class O>
class ZeroEngine {
  static_assert(Stage<S>, "zerospan: the first argument of ZeroEngine is no Stage; pass Stage0{} to Stage3{}");
  static_assert(TrainingCommunicator<C>, "zerospan: this communicator lacks a collective that ZeroEngine needs");
  static_assert(Device<D>, "zerospan: this is no Device: it lacks memory(), host_memory() or a lanes_type");
  static_assert(Optimizer<O>, "zerospan: this is no Optimizer: it lacks state_bytes(elements) or update(shard)");
  static_assert(detail::require_updatable<O, D>());

 public:
  /// A collective: the communicator is duplicated.
  /// @throws ConfigurationError if stage, placement and options contradict each other; BudgetError if the staging
  /// memory does not fit the host budget.
  ZeroEngine(S, C& communicator, D& device, const Placement& placement, O optimizer, const EngineOptions& options = {})
      : exceptions_{std::uncaught_exceptions()}, optimizer_{std::make_shared<Model>(std::move(optimizer))} {
    check(placement, device, options, *optimizer_);
    engine_ = detail::make_engine<D>(AnyCommunicator{communicator.duplicate()}, device, placement, optimizer_, options,
                                     StageRules::of<S>());
  }
  ZeroEngine(const ZeroEngine&) = delete;
  ZeroEngine& operator=(const ZeroEngine&) = delete;
  ~ZeroEngine() { engine_->close(std::uncaught_exceptions() > exceptions_); }

  /// Updates every parameter whose gradient was committed since the last step: clips by the global norm, updates each
  /// shard on its tier, publishes. A collective; it ends when the norm is known, and with it what becomes of the step.
  /// The updates themselves are made behind the next forward pass, in the order in which the parameters are gathered:
  /// a gather waits for the update of what it gathers, and whatever looks at the model as a whole (an export, a write)
  /// for all of them; a checkpoint for each on a thread of its own. If a gradient is infinite or NaN on any rank, all
  /// ranks skip the step: but for its number and the loss scale, it was never made.
  /// @throws LeaseError while leases are held, after a gradient lease that ended without `commit()` or `discard()`, or
  /// if a gradient was committed more often than there are micro-batches, or less often than `options.commits` says;
  /// ConfigurationError, on every rank, if the optimizer's settings have no sense or differ between ranks, and nothing
  /// has changed then; any asynchronous error so far.
  StepOutcome step(const StepOptions& options = {}) { return engine_->step(options); }

  /// Begins a pass through the model. Optional: it keeps the traces of training and evaluation apart, so that each is
  /// prefetched along its own path, and ranks in passes of different kinds are told so. A step begins a training pass
  /// by itself.
  /// @throws LeaseError while leases are held.
  void begin(Pass pass) { engine_->begin(pass); }

  /// Gives up the batch: drops the gradients that were committed since the last step, and ends all leases; those who
  /// hold one may still release it. Every rank that was to make the step calls it, after the same gathers and commits.
  void abandon() { engine_->abandon(); }

  /// Waits until everything is at rest that steps have begun, and throws what of it has failed. Nothing needs it but who
  /// measures: counters and tiers are then those of whole steps.
  void synchronize() { engine_->synchronize(); }

  /// What the host multiplies its loss by, until the next step; 1 without loss scaling. The same on every rank.
  float loss_scale() const { return engine_->loss_scale(); }

  /// The optimizer's settings, to change between steps, on every rank alike; not what the size of its states depends
  /// on.
  O& optimizer() noexcept { return optimizer_->get(); }

  /// Streams the fp32 master weights of the whole model past `visitor`, in declaration order, on every rank (a
  /// collective). The visitor may not call the engine.
  void for_each_master(const MasterVisitor& visitor) { engine_->for_each_master(visitor); }

  /// Streams the fp32 master weights and the optimizer's states past `visitor`, in declaration order: each rank sees
  /// parts of what it holds, and all ranks together each element once. No collective, but for the first call of all.
  /// The visitor may not call the engine. @see zerospan/checkpoint/checkpoint.hpp, which does all that is needed.
  /// @param buffer Host memory for a piece; no budget holds it.
  /// @throws LeaseError between gradients and their step, or while leases are held; ConfigurationError if the optimizer
  /// does not say what its states are (`NamesStates`), or the buffer is too small.
  void for_each_state(const StatesVisitor& visitor, Bytes buffer = 4_MiB) { engine_->for_each_state(visitor, buffer); }

  /// The inverse: shows `editor` all that this rank holds, piece by piece, in declaration order, and writes what it has
  /// changed; then parameters are published (a collective). Where several ranks hold the same (at stage 0 all of them
  /// do), their editors write the same. An editor that throws leaves the model half edited, and its peers waiting for
  /// this rank: end the engine. It may not call it.
  /// @throws as `for_each_state`; ConfigurationError, on every rank, if `options.progress` differs between ranks.
  void edit_states(const StatesEditor& editor, const EditOptions& options = {}) {
    engine_->edit_states(editor, options);
  }

  /// Where the training stands.
  TrainingProgress progress() const { return engine_->progress(); }

  Statistics statistics() const { return engine_->statistics(); }

  /// The least budgets of what was declared so far.
  Requirements requirements() const { return engine_->requirements(); }

  /// What memory is for, on this rank.
  MemoryAccount memory() const { return engine_->memory(); }

  /// Where parameters are declared.
  std::shared_ptr<ParameterStore> store() const noexcept { return engine_; }

 private:
  using Model = detail::OptimizerModel<O, detail::StreamOf<D>>;

  static void check(const Placement& placement, D& device, const EngineOptions& options, const Model& optimizer) {
    if (!S::partitions_parameters && placement.parameters.addressable() != Addressable::on_device) {
      throw_configuration_error(
          "below stage 3 every rank keeps whole parameters in device memory; they cannot rest on " +
          std::string{placement.parameters.name()});
    }
    if (!S::partitions_gradients && placement.gradients.addressable() == Addressable::nowhere) {
      throw_configuration_error("below stage 2 every rank keeps whole gradients in memory; they cannot rest on " +
                                std::string{placement.gradients.name()});
    }
    for (const TierRef tier : placement.tiers()) {
      const Arena* const home = tier.addressable() == Addressable::on_device ? &device.memory() : &device.host_memory();
      if (tier.arena() && tier.arena() != home) {
        throw_configuration_error("the tier in " + std::string{tier.name()} +
                                  " is of another device than the engine: its memory is not this device's");
      }
      if (tier.addressable() == Addressable::nowhere && tier.alignment() > Arena::alignment) {
        throw_configuration_error(std::string{tier.name()} + " wants transfers aligned to " +
                                  std::to_string(tier.alignment()) + " bytes; at most 4096 are supported");
      }
    }
    const double fraction = placement.optimizer_share ? placement.optimizer_share->fraction : 0.5;
    if (!(fraction > 0 && fraction < 1)) {
      throw_configuration_error("a share of the optimizer's states is a fraction between 0 and 1, not " +
                                std::to_string(fraction));
    }
    if (placement.group_copies) check_group_copies(options);
    if (options.micro_batches == 0) throw_configuration_error("a step has at least one micro-batch");
    if (options.timeout.count() <= 0) throw_configuration_error("the timeout must be positive");
    if (!(options.max_gradient_norm > 0)) throw_configuration_error("the largest gradient norm must be positive");
    if (!(options.early_share > 0 && options.early_share <= 1)) {
      throw_configuration_error("the share of early updates is in (0, 1], not " + std::to_string(options.early_share));
    }
    if (options.loss_scale) options.loss_scale->validate();
    optimizer.validate();
  }

  static void check_group_copies(const EngineOptions& options) {
    if (!Grouped<C> || !S::partitions_parameters || !options.partition.is<Slices>()) {
      throw_configuration_error(
          "copies of the parameters in groups of ranks need a communicator with groups (GroupedCommunicator), stage 3, "
          "and parameters in slices");
    }
  }

  int exceptions_;
  std::shared_ptr<Model> optimizer_;
  std::shared_ptr<detail::Engine> engine_;
};

}  // namespace zerospan::inline v0
