/// @file
/// Declarations: parameters and their uses, as they are declared one after another.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/admission.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/reserved_space.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0::detail {

/// A declaration that throws leaves nothing behind.
template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class Declarations {
 public:
  Declarations(EngineCore<C, D>& core, Arena& device_memory, ReservedSpace& space, const O& optimizer)
      : core_{core}, space_{space}, admission_{core, device_memory, space, optimizer} {}

  /// @throws as ParameterStore::declare.
  ParameterId declare(ParameterDeclaration declaration) {
    check_name(declaration.name);
    const auto before = space_.counts();
    try {
      ParameterRecord parameter = admission_.admit(std::move(declaration));
      ParameterUse use = admission_.admit_use(parameter.name, core_.states.parameters.size(), parameter);
      core_.states.parameters.push_back(std::move(parameter));
      admission_.keep(core_.states.parameters.back());
      return add(std::move(use));
    } catch (...) {
      space_.cancel_since(before);
      throw;
    }
  }

  ParameterId tie(ParameterId parameter, std::string name) {
    check_name(name);
    const std::size_t index = core_.states.use(parameter).parameter;
    return add(admission_.admit_use(std::move(name), index, core_.states.parameters[index]));
  }

 private:
  void check_name(const std::string& name) const {
    const bool is_taken =
        std::ranges::any_of(core_.states.uses, [&](const ParameterUse& use) { return use.name == name; });
    if (is_taken) throw_configuration_error("two parameters are named " + name);
  }

  ParameterId add(ParameterUse use) {
    const std::size_t id = core_.states.uses.size();
    core_.states.parameters[use.parameter].uses.push_back(id);
    core_.states.uses.push_back(std::move(use));
    return static_cast<ParameterId>(id);
  }

  EngineCore<C, D>& core_;
  ReservedSpace& space_;
  Admission<S, C, D, O> admission_;
};

}  // namespace zerospan::inline v0::detail
