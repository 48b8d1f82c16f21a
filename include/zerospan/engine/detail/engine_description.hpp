/// @file
/// EngineDescription: what a checkpoint says of a model and its training, and what this rank holds of it, and where.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

struct ParameterDescription {
  std::string name;
  Shape shape;
  ElementType type;
  Training training;  ///< As it was declared.
  bool is_split;      ///< Its master weights are: into the parameter and their lower halves.
  std::int64_t updates;
  std::uint64_t first;     ///< Of the elements that this rank holds.
  std::uint64_t elements;  ///< Their number.
};

struct EngineDescription {
  std::size_t place;   ///< This rank's, of all replicas.
  std::size_t places;  ///< Ranks of all replicas.
  std::uint64_t seed;
  TrainingProgress progress;
  std::string optimizer;
  std::vector<std::pair<std::string, double>> settings;
  std::vector<StateArray> states;
  std::vector<ParameterDescription> parameters;
};

/// Logical elements of a parameter.
struct StatesRange {
  std::uint64_t first = 0;
  std::uint64_t elements = 0;
};

/// Where master weights and states of consecutive elements of a parameter rest, or the values of one that was declared
/// frozen.
struct StatesPlace {
  /// Elements one after the other in an extent.
  struct Component {
    TierRef tier;
    Extent extent;
    std::uint64_t offset;      ///< In the extent.
    ElementWidth width;
    const std::byte* on_host;  ///< The extent, where the host may read it as it is; elsewhere nullptr.
  };

  std::size_t parameter;  ///< Its index.
  StatesRange range;
  std::vector<Component> components;  ///< Of the master weights, or of both of their halves, the upper one first, or
                                      ///< values; of each array of states.
  StatesBeingRead::Group group;       ///< Which is changed at once.

  /// The sub-groups that have something in the same extents: these are linked when all of them may be read. nullptr:
  /// there is none but its own.
  std::shared_ptr<const std::vector<StatesBeingRead::Group>> neighbours;

  /// Whether the host can read it without the engine.
  bool is_in_reach() const {
    return std::ranges::all_of(components, [](const Component& component) {
      return component.on_host || component.tier.addressable() == Addressable::nowhere;
    });
  }
};

/// Where this rank's shard of a parameter that was declared frozen rests: in one range of the parameters' tier.
struct FrozenPlace {
  std::size_t parameter;  ///< Its index.
  StatesRange range;      ///< What the rank holds of it.
  TierRef tier;
  Extent extent;
  std::size_t offset;  ///< In the extent; of whole transfers, as the bytes are.
  std::size_t bytes;   ///< With what is behind the last element.
};

}  // namespace zerospan::inline v0::detail
