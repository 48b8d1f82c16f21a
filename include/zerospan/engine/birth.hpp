/// @file
/// Birth: parameters are declared, given their places, and filled, partitioned from the start.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/device/stream_operations.hpp>
#include <zerospan/engine/engine_core.hpp>
#include <zerospan/engine/group_operands.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/partition/owner_partitioner.hpp>

namespace zerospan::inline v0 {

/// Admits parameters at their declaration, and brings them to life when declaration ends.
template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class Birth {
 public:
  Birth(EngineCore<C, D>& core, D& device, const O& optimizer)
      : core_{core}, device_{device}, memory_{device.memory()}, optimizer_{optimizer}, owners_{core.ranks()} {}

  /// Bytes reserved on each state's tier and not placed.
  struct Reservations {
    std::size_t parameters = 0;
    std::size_t gradients = 0;
    std::size_t optimizer = 0;
  };
  const Reservations& reservations() const noexcept { return reserved_; }

  /// Gives up what was reserved since `before`.
  void cancel_since(const Reservations& before) noexcept {
    core_.placement.parameters.cancel({reserved_.parameters - before.parameters});
    core_.placement.gradients.cancel({reserved_.gradients - before.gradients});
    core_.placement.optimizer.cancel({reserved_.optimizer - before.optimizer});
    reserved_ = before;
  }

  /// Reserves space for all states of a parameter. @throws as ParameterStore::declare.
  ParameterRecord admit(ParameterDeclaration declaration) {
    if (declaration.elements > most_elements) {
      throw_configuration_error("parameter " + declaration.name + " has " + std::to_string(declaration.elements) +
                                " elements: more than any memory");
    }
    const Residence residence = residence_of(declaration);
    const Partition partition = cut(declaration.elements, residence);
    ParameterRecord parameter{std::move(declaration.name),
                              declaration.type,
                              std::move(declaration.initializer),
                              declaration.options,
                              partition,
                              residence,
                              {},
                              ParameterRecord::nowhere,
                              0,
                              {},
                              0};
    const std::string what = "parameter " + parameter.name;
    check_fits("the gather of " + what, parameter.gathered_bytes());
    if (!core_.holds(parameter)) return parameter;
    const std::size_t elements = round_up(partition.shard_elements, alignment());
    if (residence == Residence::partitioned) {
      reserve(core_.placement.parameters, reserved_.parameters, elements * element_bytes(parameter.type), what);
    } else {
      parameter.replica = core_.replicas.place(parameter.gathered_bytes(), what);
    }
    if (parameter.trainable()) {
      reserve(core_.placement.optimizer, reserved_.optimizer, states_bytes(elements),
              "the optimizer states of " + what);
    }
    return parameter;
  }

  /// Reserves space for the gradient of a use.
  ParameterUse admit_use(std::string name, std::size_t index, const ParameterRecord& parameter) {
    ParameterUse use{std::move(name), index, {}, false};
    use.gradient.elements =
        S::partitions_gradients ? parameter.partition.shard_elements : parameter.partition.padded_elements();
    if (parameter.trainable()) {
      const std::string what = "the gradient of " + use.name;
      check_fits(what, core_.gradient_buffer_bytes(use, parameter));
      if (!core_.holds(parameter)) return use;
      const bool in_space = parameter.uses.empty() && gradients_follow_shards();
      const std::size_t elements = in_space ? round_up(use.gradient.elements, alignment()) : use.gradient.elements;
      reserve(core_.placement.gradients, reserved_.gradients,
              elements * element_bytes(core_.accumulator_type(parameter.type)), what);
    }
    return use;
  }

  /// Counts a parameter that was admitted with all that belongs to it.
  void keep(const ParameterRecord& parameter) noexcept { owners_.keep(parameter.partition); }

  /// Ends declaration: forms sub-groups and gives every state its place.
  /// @param group_limit Elements of the largest sub-group.
  void place(std::size_t group_limit) {
    ModelStates& states = core_.states;
    for (ParameterRecord& parameter : states.parameters) {
      if (core_.holds(parameter)) states.append_to_space(parameter, alignment());
    }
    states.form_groups(group_limit);
    for (ShardSpace& space : states.spaces) {
      if (space.residence == Residence::partitioned) {
        space.parameters =
            place_on(core_.placement.parameters, reserved_.parameters, space.elements * element_bytes(space.type));
      }
      if (space.training == Training::trainable && gradients_follow_shards()) {
        space.gradients = place_on(core_.placement.gradients, reserved_.gradients,
                                   space.elements * element_bytes(core_.accumulator_type(space.type)));
      }
    }
    for (SubGroup& group : states.groups) {
      if (states.spaces[group.space].training == Training::trainable) {
        group.states = place_on(core_.placement.optimizer, reserved_.optimizer, states_bytes(group.elements));
      }
    }
    for (ParameterUse& use : states.uses) place_gradient(use);
    place_norms();
  }

  /// Posts the initialization of every shard, and the gathering of replicas.
  /// @return The ends of all that was posted.
  std::vector<Completion> fill() {
    std::vector<Completion> ends{clear_norms()};
    for (const SubGroup& group : core_.states.groups) {
      const PostedWork posted = fill_group(group);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
    }
    std::vector<GatherPart> replicas;
    for (const ParameterRecord& parameter : core_.states.parameters) {
      if (parameter.residence == Residence::replicated && parameter.partition.shards > 1) {
        replicas.push_back({core_.replica_of(parameter), parameter.shard_bytes()});
      }
    }
    if (!replicas.empty()) ends.push_back(core_.all_gather(std::move(replicas), "initial parameters", ends));
    return ends;
  }

  /// Gives all places, and what was reserved for them, back to the tiers.
  void remove_extents() noexcept {
    cancel_since({});
    const auto remove = [](TierRef tier, const Extent& extent) {
      if (extent.bytes > 0) tier.remove(extent);
    };
    for (const ShardSpace& space : core_.states.spaces) {
      remove(core_.placement.parameters, space.parameters);
      remove(core_.placement.gradients, space.gradients);
    }
    for (const SubGroup& group : core_.states.groups) remove(core_.placement.optimizer, group.states);
    for (const ParameterUse& use : core_.states.uses) {
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      const bool in_space = &core_.states.uses[parameter.uses.front()] == &use && gradients_follow_shards();
      if (!in_space) remove(core_.placement.gradients, use.gradient.extent);
    }
  }

  /// Elements to which shards are aligned in their spaces, so that each begins at a transfer's boundary on any tier.
  std::size_t alignment() const {
    std::size_t bytes = 1;
    const TierRef tiers[]{core_.placement.parameters, core_.placement.gradients, core_.placement.optimizer};
    for (const TierRef tier : tiers) {
      if (tier.addressable() == Addressable::nowhere) bytes = std::max(bytes, tier.alignment());
    }
    return round_up(std::max<std::size_t>(bytes / sizeof(bfloat16), 1), block_elements);
  }

  /// Elements of the largest sub-group of which three fit into the staging memory: one read, one updated, one written.
  /// @throws BudgetError if not even one does.
  std::size_t largest_group() const {
    const std::size_t unit = alignment();
    const auto slot = [](TierRef tier, std::size_t bytes) {
      return Staging<typename D::lanes_type>::slot_bytes(tier, bytes, Site::host);
    };
    const std::size_t unit_bytes =
        slot(core_.placement.optimizer, states_bytes(unit)) + slot(core_.placement.gradients, unit * sizeof(float)) +
        std::max(slot(core_.placement.parameters, unit * sizeof(float)), slot(core_.replicas, unit * sizeof(float)));
    const std::size_t wanted = std::max(core_.options.sub_group_elements / unit, std::size_t{1});
    if (unit_bytes == 0) return wanted * unit;
    const std::size_t capacity = core_.staging.capacity();
    if (capacity < unit_bytes) {
      throw_budget_error("staging the smallest sub-group", {unit_bytes}, {capacity}, "raise the host budget");
    }
    return std::clamp(capacity / 3 / unit_bytes, std::size_t{1}, wanted) * unit;
  }

 private:
  /// Byte counts of this many elements do not overflow.
  static constexpr std::size_t most_elements = std::size_t{1} << 48;

  Residence residence_of(const ParameterDeclaration& declaration) const {
    const bool is_whole = core_.ranks() == 1 && core_.placement.parameters.addressable() == Addressable::on_device;
    const bool is_small =
        declaration.elements * element_bytes(declaration.type) <= core_.options.persistence_threshold.count;
    return S::partitions_parameters && !is_whole && !is_small ? Residence::partitioned : Residence::replicated;
  }

  /// What is replicated, or has one rank alone, is sliced whatever the strategy.
  Partition cut(std::size_t elements, Residence residence) const {
    const bool has_owner = core_.options.partition == PartitionStrategy::owners && core_.ranks() > 1;
    if (has_owner && residence == Residence::partitioned) return owners_.deal(elements);
    return BandwidthPartitioner{S::partitions_optimizer ? core_.ranks() : 1}.slice(elements);
  }

  std::size_t states_bytes(std::size_t elements) const {
    return elements * sizeof(float) + optimizer_.state_bytes(elements);
  }

  std::size_t gradient_bytes(const ParameterUse& use, const ParameterRecord& parameter) const {
    return use.gradient.elements * element_bytes(core_.accumulator_type(parameter.type));
  }

  /// Whether accumulators are cut as shards are; otherwise (stage 1) each has a place of its own.
  bool gradients_follow_shards() const { return S::partitions_gradients || !S::partitions_optimizer; }

  static void reserve(TierRef tier, std::size_t& reserved, std::size_t bytes, const std::string& what) {
    tier.reserve({bytes}, what);
    reserved += bytes;
  }

  /// Places what was reserved.
  static Extent place_on(TierRef tier, std::size_t& reserved, std::size_t bytes) {
    const Extent extent = tier.place(bytes);
    reserved -= std::min(reserved, bytes);
    return extent;
  }

  /// Refuses what can never fit, even alone.
  void check_fits(const std::string& what, std::size_t bytes) const {
    if (const std::size_t left = memory_.largest_free(); bytes > left) {
      throw_budget_error(what + " in " + memory_.name(), {bytes}, {left}, "raise the device budget, or tile the layer");
    }
  }

  void place_norms() {
    constexpr std::size_t bytes = ExactSum::digit_count * sizeof(std::int64_t);
    core_.norms.emplace(device_, Bytes{core_.states.uses.size() * bytes}, "the sums of squares");
    auto* digits = reinterpret_cast<std::int64_t*>(core_.norms->on_device());
    for (ParameterUse& use : core_.states.uses) use.gradient.square_norm = std::exchange(digits, digits + bytes / 8);
  }

  /// Device memory is not born empty.
  Completion clear_norms() {
    if constexpr (D::lanes_type::is_unified) return {};
    return core_.lanes.post(
        Lane::update, {}, {OperationKind::fill, "the sums of squares", core_.norms->bytes()},
        [norms = core_.norms->on_device(), bytes = core_.norms->bytes()](auto& stream) -> Completion {
          fill_zero(stream, norms, bytes);
          return {};
        });
  }

  void place_gradient(ParameterUse& use) {
    ParameterRecord& parameter = core_.states.parameters[use.parameter];
    if (!parameter.trainable() || !core_.holds(parameter)) return;
    const ShardSpace& space = core_.states.spaces[parameter.space];
    const bool is_first = &core_.states.uses[parameter.uses.front()] == &use;
    if (is_first && gradients_follow_shards()) {
      use.gradient.extent = space.gradients;
      use.gradient.offset = parameter.linear * element_bytes(core_.accumulator_type(parameter.type));
    } else {
      use.gradient.extent = place_on(core_.placement.gradients, reserved_.gradients, gradient_bytes(use, parameter));
    }
  }

  PostedWork fill_group(const SubGroup& group) {
    const bool trains = core_.states.spaces[group.space].training == Training::trainable;
    GroupOperands operands{core_, group};
    if (trains) operands.add_states(Operand::Access::write);
    const RunOperands parameters = operands.add_parameters();
    return core_.staging.run_on_host(
        Lane::update, {OperationKind::fill, group.name, group.states.bytes}, operands.list(), {},
        [this, &group, trains, parameters](std::span<std::byte* const> pointers) {
          if (trains) fill_zero(calling_thread, pointers[0], group.states.bytes);
          for (std::size_t i = 0; i < group.runs.size(); ++i) {
            const ShardRun& run = group.runs[i];
            fill_run(core_.states.parameters[run.parameter], run,
                     trains ? reinterpret_cast<float*>(pointers[0]) + run.first_in_group : nullptr,
                     parameters(pointers, i, run));
          }
        });
  }

  /// @param master Where the master weights go; nullptr for a frozen parameter.
  void fill_run(const ParameterRecord& parameter, const ShardRun& run, float* master, std::byte* target) const {
    std::array<float, block_elements> block;
    const std::size_t first = parameter.partition.first(core_.shard_of(parameter)) + run.first_in_shard;
    for (std::size_t done = 0; done < run.elements; done += block_elements) {
      const std::size_t begin = std::min(first + done, parameter.partition.elements);
      const std::size_t count = std::min(block_elements, parameter.partition.elements - begin);
      block.fill(0.0F);
      if (count > 0) {
        parameter.initializer({core_.options.seed, name_stream(parameter.name)}, begin, std::span{block}.first(count));
      }
      if (master) std::ranges::copy(block, master + done);
      from_float(block.data(), parameter.type, target + done * element_bytes(parameter.type), block_elements);
    }
  }

  EngineCore<C, D>& core_;
  D& device_;
  Arena& memory_;
  const O& optimizer_;
  Reservations reserved_;
  OwnerPartitioner owners_;
};

}  // namespace zerospan::inline v0
