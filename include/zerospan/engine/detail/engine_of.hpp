/// @file
/// From an engine's store back to the engine.
#pragma once

#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0::detail {

/// The engine of which this is the store. @param what Names in the error what needs it: "a checkpoint".
/// @throws ConfigurationError if it is none's.
inline Engine& engine_of(ParameterStore& store, const std::string& what) {
  auto* const engine = dynamic_cast<Engine*>(&store);
  if (!engine) throw_configuration_error(what + " is of a ZeroEngine: this store is none's");
  return *engine;
}

}  // namespace zerospan::inline v0::detail
