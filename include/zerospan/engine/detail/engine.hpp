/// @file
/// Engine: what a ZeroEngine calls of the one engine of its device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/memory_account.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0::detail {

/// One virtual call a lease and a step; nothing of it depends on the stage's type, the communicator's or the
/// optimizer's.
class Engine : public ParameterStore {
 public:
  virtual StepOutcome step(const StepOptions& options) = 0;
  virtual void begin(Pass pass) = 0;
  virtual void abandon() = 0;
  virtual void synchronize() = 0;
  virtual float loss_scale() const = 0;
  virtual void for_each_master(const MasterVisitor& visitor) = 0;

  /// @param left_out Of each parameter: what is not shown, in order; or of none.
  virtual void for_each_state(const StatesVisitor& visitor, Bytes buffer,
                              std::span<const std::vector<StatesRange>> left_out = {}) = 0;

  virtual void edit_states(const StatesEditor& editor, const EditOptions& options) = 0;
  virtual TrainingProgress progress() const = 0;
  virtual Statistics statistics() const = 0;
  virtual Requirements requirements() const = 0;
  virtual MemoryAccount memory() const = 0;

  /// Who has each parameter whole that is not in slices; of all, in the order of their declaration.
  virtual std::vector<std::optional<Rank>> owners() const = 0;

  /// For checkpoints. @throws LeaseError if this is not between steps; ConfigurationError if the optimizer does not say
  /// what its states are.
  virtual EngineDescription describe() = 0;

  /// Where that rests which `for_each_state` shows this rank, in its order. @throws as `describe`.
  virtual std::vector<StatesPlace> places_of_states() = 0;

  /// Where this rank's shards rest of what was declared frozen and is partitioned. What changes them there is followed
  /// by a call of `edit_states`: what was prefetched is stale. @throws as `describe`.
  virtual std::vector<FrozenPlace> places_of_frozen() = 0;

  /// From now on somebody reads states where they rest, as the steps so far leave them: it is told when each sub-group
  /// may be read, and is waited for before any further change.
  virtual void let_read(const std::shared_ptr<StatesBeingRead>& reader) = 0;

  /// Sums integers over ranks, exactly; a collective.
  /// @param name A literal.
  virtual void sum_over_ranks(std::span<std::int64_t> integers, const char* name) = 0;

  /// Ends the engine: leases and parameters are inert from here on.
  /// @param unwinding The rank is failing: its peers are told, instead of waiting for it.
  virtual void close(bool unwinding) noexcept = 0;
};

/// The stream type of a device.
template <Device D>
using StreamOf = typename D::lanes_type::stream_type;

/// Makes the engine of a device. Defined in engine/detail/make_engine.hpp: a program may compile it once, by an
/// explicit instantiation, and declare that elsewhere.
/// @tparam D A Device: a constraint would be in its name at link time, for some compilers and not for others.
/// @param communicator For the engine alone. @param optimizer Not nullptr.
/// @throws as ZeroEngine's constructor.
template <class D>
std::shared_ptr<Engine> make_engine(AnyCommunicator communicator, D& device, const Placement& placement,
                                    std::shared_ptr<const OptimizerInterface<StreamOf<D>>> optimizer,
                                    const EngineOptions& options, StageRules stage);

}  // namespace zerospan::inline v0::detail
