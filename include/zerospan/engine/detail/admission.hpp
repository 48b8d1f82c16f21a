/// @file
/// Admission: what is declared is refused, or has its space.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/reserved_space.hpp>
#include <zerospan/engine/detail/state_sizes.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/partition/bandwidth_partitioner.hpp>
#include <zerospan/partition/owner_partitioner.hpp>

namespace zerospan::inline v0::detail {

/// Cuts parameters, and reserves space for all of their states on the tiers.
template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class Admission {
 public:
  Admission(EngineCore<C, D>& core, Arena& device_memory, ReservedSpace& space, const O& optimizer)
      : core_{core}, memory_{device_memory}, space_{space}, sizes_{core, optimizer}, owners_{core.ranks()} {}

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
    const std::size_t elements = round_up(partition.shard_elements, sizes_.alignment());
    if (residence == Residence::partitioned) {
      const std::size_t bytes = elements * element_bytes(parameter.type);
      space_.reserve(StateKind::parameters, bytes, what);
      if (core_.placement.group_copies) {
        space_.reserve(StateKind::group_copies, core_.groups() * bytes, "the group's copy of " + what);
      }
    } else {
      parameter.replica = core_.replicas.place(parameter.gathered_bytes(), what);
    }
    if (parameter.trainable()) {
      space_.reserve_states(sizes_.states_bytes(elements), "the optimizer states of " + what);
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
      const bool in_space = parameter.uses.empty() && sizes_.gradients_follow_shards();
      const std::size_t elements =
          in_space ? round_up(use.gradient.elements, sizes_.alignment()) : use.gradient.elements;
      space_.reserve(StateKind::gradients, sizes_.gradient_bytes(elements, parameter.type), what);
    }
    return use;
  }

  /// Counts a parameter that was admitted with all that belongs to it.
  void keep(const ParameterRecord& parameter) noexcept { owners_.keep(parameter.partition); }

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

  /// Refuses what can never fit, even alone.
  void check_fits(const std::string& what, std::size_t bytes) const {
    if (const std::size_t left = memory_.largest_free(); bytes > left) {
      throw_budget_error(what + " in " + memory_.name(), Bytes{bytes}, Bytes{left},
                         "raise the device budget, or tile the layer");
    }
  }

  EngineCore<C, D>& core_;
  Arena& memory_;
  ReservedSpace& space_;
  StateSizes<S, C, D, O> sizes_;
  OwnerPartitioner owners_;
};

}  // namespace zerospan::inline v0::detail
