/// @file
/// import_safetensors: a model in the format of others becomes a training's. Needs nlohmann-json.
///
/// @code
/// const auto place = [](std::string_view parameter, const zerospan::SafetensorsModel&) {
///   return std::optional{zerospan::SafetensorsPlace{"transformer." + std::string{parameter}}};
/// };
/// zerospan::import_safetensors(engine, "gpt2/model.safetensors", {.place = place});
/// @endcode
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/interchange/detail/safetensors_importer.hpp>
#include <zerospan/interchange/safetensors_options.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

/// Master weights, and the parameters with them, become what a safetensors model has, rounded to each parameter's type;
/// the optimizer's states become zeros, as before the first step. A collective, between two steps; declaration ends, as
/// at the first gather. All ranks see the same files. Each reads the ranges of what it holds, through one buffer: the
/// model is whole nowhere. Of a transposed tensor these are short, a few rows of each column: a piece of `buffer` bytes
/// takes as many reads as the matrix has columns.
///
/// What was declared frozen may rest in the files (`FrozenValues::left_in_files`): they are to stay as they are for as
/// long as the engine lasts. Training goes on if they lose their names. A gather fails with an IoError if one has been
/// changed (ESTALE), has become shorter or cannot be read. Checkpoints have such values as any others, and who loads
/// one, or leases such a parameter for writing, has its values on its tier from then on.
/// @param path As SafetensorsModel takes it.
/// @throws InterchangeError on all ranks alike, before anything is changed: a file cannot be read or is not as the
/// format wants it, a tensor's elements are no floats; with `SafetensorsMatch::strict`, tensors or shapes are not the
/// model's. If a file fails that was sound before, the model is imported in part, and the error says so.
/// ConfigurationError if a place has no sense, if the optimizer does not say what its states are (`NamesStates`), or
/// the buffer is too small. LeaseError if this is not between two steps. Whatever the engine throws.
template <ParameterHost E>
ImportedSafetensors import_safetensors(E& engine, const std::string& path,
                                       const SafetensorsImportOptions& options = {}) {
  const std::shared_ptr<ParameterStore> store = engine.store();
  return detail::SafetensorsImporter{detail::engine_of(*store, "an import"), path, options}.import();
}

}  // namespace zerospan::inline v0
