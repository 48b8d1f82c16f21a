/// @file
/// DeclaringModel: an engine while its parameters are declared.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/partition/partitioner.hpp>

namespace zerospan::inline v0::detail {

/// What has been set aside on the tiers of a placement, and not been placed yet.
class ReservedSpace {
 public:
  /// Bytes of each kind of state, those of them that are master weights, and bytes of replicas.
  struct Counts {
    std::array<std::size_t, state_kinds> states{};
    std::array<std::size_t, state_kinds> masters{};
    std::size_t replicas = 0;
  };

  /// @param placement Outlives it. @param replicas Where replicas will rest; outlives it.
  ReservedSpace(const Placement& placement, TierRef replicas) noexcept : placement_{placement}, replicas_{replicas} {}

  /// What is reserved and not placed.
  const Counts& counts() const noexcept { return counts_; }

  /// All that was ever reserved and not cancelled.
  const Counts& totals() const noexcept { return totals_; }

  /// What was placed, in the extents that the tiers have dealt out.
  const Counts& placed() const noexcept { return placed_; }

  /// @throws as OffloadTier::reserve.
  void reserve(StateKind kind, std::size_t bytes, std::string_view what) {
    placement_.tier(kind).reserve(Bytes{bytes}, what);
    count(kind) += bytes;
    totals_.states[static_cast<std::size_t>(kind)] += bytes;
  }
  void reserve_replica(std::size_t bytes, std::string_view what) {
    replicas_.reserve(Bytes{bytes}, what);
    counts_.replicas += bytes;
    totals_.replicas += bytes;
  }

  /// Reserves space for an optimizer's states, each share of them where it will rest.
  /// @param masters Those of the bytes that are for master weights.
  void reserve_states(std::size_t bytes, std::size_t masters, std::string_view what) {
    const double fraction = placement_.optimizer_share ? placement_.optimizer_share->fraction : 0;
    const auto share_of = [&](std::size_t all) {
      return static_cast<std::size_t>(fraction * static_cast<double>(all));
    };
    const std::size_t shared = share_of(bytes);
    if (shared > 0) reserve(StateKind::optimizer_share, shared, what);
    reserve(StateKind::optimizer, bytes - shared, what);
    for (Counts* const counts : {&counts_, &totals_}) {
      counts->masters[static_cast<std::size_t>(StateKind::optimizer_share)] += share_of(masters);
      counts->masters[static_cast<std::size_t>(StateKind::optimizer)] += masters - share_of(masters);
    }
  }

  /// Places what was reserved. @param masters Those of the bytes that are for master weights.
  Extent place(StateKind kind, std::size_t bytes, std::size_t masters = 0) {
    const Extent extent = placement_.tier(kind).place(bytes);
    count(kind) -= std::min(count(kind), bytes);
    placed_.states[static_cast<std::size_t>(kind)] += extent.bytes;
    placed_.masters[static_cast<std::size_t>(kind)] += masters == bytes ? extent.bytes : masters;
    return extent;
  }
  Extent place_replicas() {
    const Extent extent = replicas_.place(std::exchange(counts_.replicas, 0));
    placed_.replicas += extent.bytes;
    return extent;
  }

  /// Gives up what was reserved since the counts were `before`.
  void cancel_since(const Counts& before) noexcept {
    for (std::size_t k = 0; k < state_kinds; ++k) {
      placement_.tier(static_cast<StateKind>(k)).cancel(Bytes{counts_.states[k] - before.states[k]});
      totals_.states[k] -= counts_.states[k] - before.states[k];
      totals_.masters[k] -= counts_.masters[k] - before.masters[k];
    }
    replicas_.cancel(Bytes{counts_.replicas - before.replicas});
    totals_.replicas -= counts_.replicas - before.replicas;
    counts_ = before;
  }

 private:
  std::size_t& count(StateKind kind) noexcept { return counts_.states[static_cast<std::size_t>(kind)]; }

  const Placement& placement_;
  TierRef replicas_;
  Counts counts_{};
  Counts totals_{};
  Counts placed_{};
};

/// How the states of a model are cut and aligned, and how many bytes they take.
template <Device D>
class StateSizes {
 public:
  /// @param state_bytes Of the optimizer, for a block of elements. @param narrowest Bytes of the narrowest element that
  /// is read or written by itself.
  StateSizes(EngineCore<D>& core, std::size_t state_bytes, std::size_t narrowest)
      : core_{core}, state_bytes_{state_bytes}, narrowest_{narrowest} {}

  /// Elements to which shards are aligned in their spaces, so that each begins at a transfer's boundary on any tier.
  std::size_t alignment() const {
    std::size_t bytes = 1;
    for (const TierRef tier : core_.placement.tiers()) {
      if (tier.addressable() == Addressable::nowhere) bytes = std::max(bytes, tier.alignment());
    }
    return round_up(std::max<std::size_t>(bytes / narrowest_, 1), block_elements);
  }

  /// Elements of the largest sub-group of which twelve fit into the staging memory, so that gathers wait for little and
  /// new values stay there for a while; or three, one read, one updated, one written, where twelfths would be less than
  /// disks like. And no more than a twelfth of what a rank trains of the model, so that most updates hide, unless so
  /// many small ones would cost more than that.
  /// @throws BudgetError if not even one does.
  std::size_t largest_group() const {
    const std::size_t unit_bytes = staged_bytes(alignment());
    const std::size_t capacity = core_.staging.capacity();
    if (capacity < unit_bytes) {
      throw_budget_error("staging the smallest sub-group", Bytes{unit_bytes}, Bytes{capacity}, "raise the host budget");
    }
    return fitting_group();
  }

  /// The same; the smallest sub-group where not even one fits.
  std::size_t fitting_group() const {
    const std::size_t unit = alignment();
    const std::size_t unit_bytes = staged_bytes(unit);
    const std::size_t wanted = std::max(core_.options.sub_group_elements / unit, std::size_t{1});
    if (unit_bytes == 0) return wanted * unit;
    constexpr std::size_t large = std::size_t{4} << 20;
    constexpr std::size_t small = std::size_t{1} << 20;
    const std::size_t capacity = core_.staging.capacity();
    const std::size_t of_staging = std::max(capacity / 12, std::min(capacity / 3, large)) / unit_bytes;
    const std::size_t of_model = std::max(round_up(trained_elements(), 12 * unit) / (12 * unit), small / unit_bytes);
    return in_whole_pages(std::clamp(std::min(of_staging, of_model), std::size_t{1}, wanted) * unit);
  }

  /// Staging memory in which an update of the largest parameter leaves all of it until it is gathered, while the next
  /// one is updated.
  std::size_t wanted_staging() const {
    std::size_t largest = 0;
    for (const ParameterRecord& parameter : core_.states.parameters) {
      if (parameter.has_states()) largest = std::max(largest, round_up(parameter.shard_elements(), alignment()));
    }
    return 2 * staged_bytes(largest);
  }

  /// Elements of all shards in their spaces, those that other ranks own included: the same on all ranks.
  std::size_t elements_in_spaces() const {
    std::size_t elements = 0;
    for (const ParameterRecord& parameter : core_.states.parameters) {
      elements += round_up(parameter.shard_elements(), alignment());
    }
    return elements;
  }

  /// Bytes of staging memory that the update of so many elements passes through.
  std::size_t staged_bytes(std::size_t elements) const {
    const auto slot = [](TierRef tier, std::size_t bytes) {
      return Staging<typename D::lanes_type>::slot_bytes(tier, bytes, Site::host);
    };
    return std::max(slot(core_.placement.optimizer, states_bytes(elements)),
                    slot(core_.placement.tier(StateKind::optimizer_share), states_bytes(elements))) +
           slot(core_.placement.gradients, elements * sizeof(float)) +
           std::max(slot(core_.placement.parameters, elements * sizeof(float)),
                    slot(core_.replicas, elements * sizeof(float)));
  }

  /// Bytes of the optimizer's states of so many elements (whole blocks), and of the master weights that are with them.
  std::size_t states_bytes(std::size_t elements, MasterPlace master = MasterPlace::with_states) const {
    return elements * master_bytes_with_states(master) + elements / block_elements * state_bytes_;
  }

  /// An fp32 parameter is its own master weights if it rests on the tier of the optimizer's states, or where it is
  /// updated in place: nothing is read that would not be read otherwise, and less is written.
  MasterPlace master_of(const ParameterRecord& parameter) const {
    if (!parameter.has_states()) return MasterPlace::with_states;
    const bool are_halves = core_.options.master_weights == MasterWeights::split;
    if (parameter.type == ElementType::bfloat16 && are_halves) return MasterPlace::split;
    if (parameter.type != ElementType::float32) return MasterPlace::with_states;
    const bool is_partitioned = parameter.residence == Residence::partitioned;
    const TierRef tier = is_partitioned ? core_.placement.parameters : core_.replicas;
    const bool is_with_states = tier.identity() == core_.placement.optimizer.identity();
    const bool updates_on_device =
        !D::lanes_type::is_unified && core_.placement.optimizer.addressable() == Addressable::on_device;
    const bool is_in_place = !updates_on_device && !Staging<typename D::lanes_type>::passes(tier, Site::host);
    return is_with_states || is_in_place ? MasterPlace::in_parameter : MasterPlace::with_states;
  }

  /// Bytes of so many accumulated gradients.
  std::size_t gradient_bytes(std::size_t elements, ElementType parameters) const {
    return elements * element_bytes(core_.accumulator_type(parameters));
  }

  /// Whether accumulators are cut as shards are; otherwise (stage 1) each has a place of its own.
  bool gradients_follow_shards() const { return core_.stage.partitions_gradients || !core_.stage.partitions_optimizer; }

 private:
  /// Fewer elements, if any are left, of which every array takes whole pages: their transfers have no padding.
  std::size_t in_whole_pages(std::size_t elements) const {
    const std::size_t pages = round_up(Arena::alignment / narrowest_, alignment());
    return elements < pages ? elements : elements / pages * pages;
  }

  /// Elements that a rank updates in a step; where ranks own whole parameters, those of one that owns as many as the
  /// others. The same on all ranks.
  std::size_t trained_elements() const {
    std::size_t elements = 0;
    for (const ParameterRecord& parameter : core_.states.parameters) {
      if (!parameter.has_states()) continue;
      const std::size_t of_owner = round_up(parameter.shard_elements(), alignment());
      elements += parameter.partition.owner ? of_owner / core_.ranks() : of_owner;
    }
    return elements;
  }

  EngineCore<D>& core_;
  std::size_t state_bytes_;
  std::size_t narrowest_;
};

/// Takes parameters and their uses, one after another: each is refused, or cut, and has its space reserved. A
/// declaration that throws leaves nothing behind.
template <Device D>
class DeclaringModel {
 public:
  DeclaringModel(EngineCore<D>& core, Arena& device_memory, ReservedSpace& space, const StateSizes<D>& sizes)
      : core_{core},
        memory_{device_memory},
        space_{space},
        sizes_{sizes},
        cutter_{core.options.partition.make(shards())},
        replica_cutter_{AnyPartitioner{Slices{}}.make(shards())} {}

  /// @throws as ParameterStore::declare.
  ParameterId declare(ParameterDeclaration declaration) {
    check_name(declaration.name);
    const ReservedSpace::Counts before = space_.counts();
    try {
      ParameterRecord parameter = admit(std::move(declaration));
      ParameterUse use = admit_use(parameter.name, core_.states.parameters.size(), parameter);
      core_.states.parameters.push_back(std::move(parameter));
      return add(std::move(use));
    } catch (...) {
      space_.cancel_since(before);
      throw;
    }
  }

  /// @throws as ParameterStore::tie.
  ParameterId tie(ParameterId parameter, std::string name) {
    check_name(name);
    const std::size_t index = core_.states.use(parameter).parameter;
    return add(admit_use(std::move(name), index, core_.states.parameters[index]));
  }

 private:
  /// Byte counts of this many elements do not overflow.
  static constexpr std::size_t most_elements = std::size_t{1} << 48;

  void check_name(const std::string& name) const {
    if (name.empty()) throw_configuration_error("a parameter has no name");
    if (names_.contains(name)) throw_configuration_error("two parameters are named " + name);
  }

  ParameterId add(ParameterUse use) {
    const std::size_t id = core_.states.uses.size();
    core_.states.parameters[use.parameter].uses.push_back(id);
    core_.states.uses.push_back(std::move(use));
    names_.insert(core_.states.uses.back().name);
    return static_cast<ParameterId>(id);
  }

  /// Reserves space for all states of a parameter. @throws as ParameterStore::declare.
  ParameterRecord admit(ParameterDeclaration declaration) {
    validate(declaration.options.group, declaration.name);
    if (declaration.shape.elements() > most_elements) {
      throw_configuration_error("parameter " + declaration.name + " has " +
                                std::to_string(declaration.shape.elements()) + " elements: more than any memory");
    }
    ParameterRecord parameter;
    parameter.name = std::move(declaration.name);
    parameter.shape = declaration.shape;
    parameter.type = declaration.type;
    parameter.initializer = std::move(declaration.initializer);
    parameter.options = declaration.options;
    parameter.residence = residence_of(parameter);
    parameter.master = sizes_.master_of(parameter);
    parameter.partition = (parameter.residence == Residence::partitioned ? cutter_ : replica_cutter_)
                              .cut(parameter.name, parameter.shape.elements());
    const std::string what = "parameter " + parameter.name;
    check_fits("the gather of " + what, parameter.gathered_bytes());
    if (parameter.residence == Residence::replicated) space_.reserve_replica(parameter.gathered_bytes(), what);
    if (!core_.holds(parameter)) return parameter;
    const std::size_t elements = round_up(parameter.shard_elements(), sizes_.alignment());
    if (parameter.residence == Residence::partitioned) {
      const std::size_t bytes = elements * element_bytes(parameter.type);
      space_.reserve(StateKind::parameters, bytes, what);
      if (core_.placement.group_copies && !parameter.partition.owner) {
        space_.reserve(StateKind::group_copies, core_.groups() * bytes, "the group's copy of " + what);
      }
    }
    if (parameter.has_states()) {
      space_.reserve_states(sizes_.states_bytes(elements, parameter.master),
                            elements * master_bytes_with_states(parameter.master), "the optimizer states of " + what);
    }
    return parameter;
  }

  /// Reserves space for the gradient of a use.
  ParameterUse admit_use(std::string name, std::size_t index, const ParameterRecord& parameter) {
    ParameterUse use{std::move(name), index, {}, false};
    use.gradient.elements =
        core_.stage.partitions_gradients ? parameter.shard_elements() : parameter.gathered_elements();
    if (parameter.has_states()) {
      const std::string what = "the gradient of " + use.name;
      check_fits(what, core_.gradient_buffer_bytes(use, parameter));
      if (!core_.holds(parameter)) return use;
      const bool in_space = parameter.uses.empty() && sizes_.gradients_follow_shards();
      const std::size_t elements =
          in_space ? round_up(use.gradient.elements, sizes_.alignment()) : use.gradient.elements;
      space_.reserve(StateKind::gradients, sizes_.gradient_bytes(elements, parameter.type), what);
    }
    return use;
  }

  Residence residence_of(const ParameterRecord& parameter) const {
    const bool is_whole = core_.ranks() == 1 && core_.placement.parameters.addressable() == Addressable::on_device;
    const bool is_small =
        parameter.shape.elements() * element_bytes(parameter.type) <= core_.options.persistence_threshold.count;
    return core_.stage.partitions_parameters && !is_whole && !is_small ? Residence::partitioned : Residence::replicated;
  }

  /// Into how many shards parameters are cut.
  std::size_t shards() const { return core_.stage.partitions_optimizer ? core_.ranks() : 1; }

  /// Refuses what can never fit, even alone.
  void check_fits(const std::string& what, std::size_t bytes) const {
    const std::size_t left = memory_.largest_free();
    if (bytes <= left) return;
    const std::size_t dealt_out = memory_.capacity().count - memory_.used().count;  // or free
    throw_budget_error(what + " in " + memory_.name(), Bytes{bytes}, Bytes{left},
                       bytes <= dealt_out && left <= dealt_out / 2
                           ? "another engine works in the device's memory: end it first, or give each a device"
                           : "raise the device budget, or tile the layer");
  }

  EngineCore<D>& core_;
  Arena& memory_;
  ReservedSpace& space_;
  const StateSizes<D>& sizes_;
  AnyPartitioner::Cutter cutter_;               ///< Of what is partitioned.
  AnyPartitioner::Cutter replica_cutter_;       ///< Of the states of what is replicated.
  std::unordered_set<std::string_view> names_;  ///< Of all uses, which keep them.
};

}  // namespace zerospan::inline v0::detail
