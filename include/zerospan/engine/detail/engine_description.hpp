/// @file
/// EngineDescription: what a checkpoint says of a model and its training, and what this rank holds of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0::detail {

struct ParameterDescription {
  std::string name;
  Shape shape;
  ElementType type;
  Training training;  ///< As it was declared.
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

}  // namespace zerospan::inline v0::detail
