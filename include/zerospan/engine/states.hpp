/// @file
/// What training knows of a model's elements, piece by piece: for hosts that save and load it in a format of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0 {

/// Where a training stands, besides its parameters and their states.
struct TrainingProgress {
  std::int64_t step = 0;                       ///< Steps made, skipped ones included.
  std::int64_t skipped_in_a_row = 0;           ///< Of them, those skipped since the last good one.
  std::optional<LossScaleState> loss_scale{};  ///< None without loss scaling.

  friend bool operator==(const TrainingProgress&, const TrainingProgress&) = default;
};

/// Consecutive elements of one parameter.
struct StatesPiece {
  std::string_view parameter;
  const Shape& shape;             ///< Of the whole parameter.
  ElementType type;               ///< In which it is computed with.
  Training training;              ///< As it was declared.
  std::int64_t updates;           ///< Of the parameter, so far.
  std::uint64_t first;            ///< The first of the elements.
  std::span<const float> master;  ///< Of a parameter that was declared frozen: its values.

  /// Of each array of the optimizer's (`Optimizer::state_arrays`), in its order, as it is: codes are not decoded. What
  /// there is of scales begins with that of the first of the elements. None if declared frozen.
  std::span<const std::span<const std::byte>> states;
};

/// The same, to be changed.
struct StatesEdit {
  std::string_view parameter;
  const Shape& shape;
  ElementType type;
  Training training;
  std::int64_t& updates;  ///< Every rank takes what is here on the one that holds the parameter's first element.
  std::uint64_t first;
  std::span<float> master;  ///< The parameter becomes these, rounded to its type.
  std::span<const std::span<std::byte>> states;
};

/// What becomes of what was shown to an editor.
enum class EditOutcome : std::uint8_t {
  unchanged,  ///< It stays as it was, whatever was written.
  changed,    ///< It becomes what was written.
};

using StatesVisitor = std::function<void(const StatesPiece&)>;
using StatesEditor = std::function<EditOutcome(const StatesEdit&)>;

struct EditOptions {
  /// What an editor finds in a piece: what is, or anything, where it will be written over.
  WriteContent content = WriteContent::current;

  /// Where the training stands from now on, if it changes.
  std::optional<TrainingProgress> progress = std::nullopt;

  /// Host memory for a piece; no budget holds it.
  Bytes buffer = 4_MiB;
};

}  // namespace zerospan::inline v0
