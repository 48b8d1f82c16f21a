/// @file
/// What has the store of an engine stands for the engine.
#pragma once

#include <memory>

#include <zerospan/partition/parameter_store.hpp>

namespace gpt {

struct EngineOfStore {
  std::shared_ptr<zerospan::ParameterStore> held;
  std::shared_ptr<zerospan::ParameterStore> store() const { return held; }
};

}  // namespace gpt
