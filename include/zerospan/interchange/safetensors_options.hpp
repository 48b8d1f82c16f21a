/// @file
/// What importing and exporting a safetensors model are told, and what they tell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_place.hpp>

namespace zerospan::inline v0 {

/// Whether a model in the format of others is the engine's, or may be another.
enum class SafetensorsMatch : std::uint8_t {
  strict,   ///< It has a tensor of the right shape for each parameter that has a place, and no other tensors.
  partial,  ///< What has the name and the shape of a parameter is taken; everything else stays as it is.
};

/// Where the values of parameters are that were declared frozen.
enum class FrozenValues : std::uint8_t {
  copied,  ///< On the parameters' tier, as those of all others.

  /// In the model's files, where they can be: nothing is written, gathers read there, and the space that was reserved
  /// for them is given back. They can if the parameter is partitioned, on a tier that lets extents rest in files
  /// (`NvmeTier`; `tier/file_backed_extents.hpp`), and has the file's element type and order. What cannot is copied.
  left_in_files,
};

struct SafetensorsImportOptions {
  /// Where a parameter is in the model; nothing: nowhere, it stays as it is. Without this, each is the tensor of its
  /// name. The same on every rank.
  std::function<std::optional<SafetensorsPlace>(std::string_view parameter, const SafetensorsModel&)> place{};

  /// Whether a tensor that is no parameter's is none of the model's either, such as a mask. Without this, none is.
  std::function<bool(std::string_view tensor)> ignores{};

  SafetensorsMatch match = SafetensorsMatch::strict;

  FrozenValues frozen = FrozenValues::copied;

  /// Host memory that states pass through; no budget holds it.
  Bytes buffer = 4_MiB;
};

/// What was imported; the same on every rank, but for the bytes.
struct ImportedSafetensors {
  std::string path;                   ///< Of the file, or of the index.
  std::vector<std::string> taken;     ///< Parameters, in declaration order.
  std::vector<std::string> unplaced;  ///< Not taken: they have no place.
  std::vector<std::string> reshaped;  ///< Not taken: the tensor has another shape.
  std::vector<std::string> missing;   ///< Not taken: there is no tensor.
  std::vector<std::string> extra;     ///< Tensors that are no parameter's.
  Bytes left_in_files;                ///< Of parameters, as this rank holds them: what rests in the model's files.
  Bytes copied;                       ///< Likewise: what does not.
};

struct SafetensorsExportOptions {
  /// Of the tensors' elements: master weights are rounded to nearest even. What is too large for fp16 is infinite.
  ElementType type = ElementType::float32;

  /// Of a file, at most, unless one tensor alone is larger. Where there is more, there are several files and an index.
  Bytes file_limit{std::numeric_limits<std::size_t>::max()};

  /// What is said of the file, UTF-8.
  std::map<std::string, std::string> metadata{{"format", "pt"}};

  /// Where a parameter comes to lie; nothing: nowhere, it is left out. Without this, each is a tensor of its name. The
  /// same on every rank.
  std::function<std::optional<SafetensorsPlace>(std::string_view parameter)> place{};

  /// Host memory that states pass through; no budget holds it.
  Bytes buffer = 4_MiB;
};

struct ExportedSafetensors {
  std::vector<std::string> tensors;  ///< In the order of the first parameter in each; the same on every rank.
  Bytes written;                     ///< By this rank.
};

}  // namespace zerospan::inline v0
