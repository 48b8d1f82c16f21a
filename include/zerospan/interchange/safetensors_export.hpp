/// @file
/// export_safetensors: a training's model becomes one in the format of others. Needs nlohmann-json.
#pragma once

#include <memory>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/interchange/detail/safetensors_exporter.hpp>
#include <zerospan/interchange/safetensors_options.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

/// Writes the fp32 master weights (of parameters that were declared frozen, their values) as a safetensors model; a
/// collective, between two steps. Declaration ends, as at the first gather. All ranks see the same directory; each
/// writes what it holds, through one buffer: the model is whole nowhere but in its files. Of a transposed tensor what
/// is written at once is short, and is listed in memory until the end: as many ranges as the matrix has columns.
/// @param path As SafetensorsWriter takes it: ends in ".safetensors". A file of this name stays as it is until the new
/// one is complete.
/// @throws InterchangeError on all ranks alike: a file cannot be made or written, as SafetensorsWriter says it.
/// ConfigurationError if path, type or places have no sense: several parameters in one tensor are to be each of its
/// rows once. Otherwise as `import_safetensors`.
template <ParameterHost E>
ExportedSafetensors export_safetensors(E& engine, const std::string& path,
                                       const SafetensorsExportOptions& options = {}) {
  const std::shared_ptr<ParameterStore> store = engine.store();
  return detail::SafetensorsExporter{detail::engine_of(*store, "an export"), path, options}.write();
}

}  // namespace zerospan::inline v0
