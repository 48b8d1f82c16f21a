/// @file
/// What saving and loading a checkpoint are told, and what they tell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

class CheckpointFiles;

/// How states are saved that rest in files of tiers, on the file system of the checkpoint.
enum class SaveBy : std::uint8_t {
  linking,  ///< The files become the checkpoint's, by a name, and training goes on in new ones: nothing is
            ///< written. What rests in other places is copied all the same.
  copying,  ///< Everything is written to files of the checkpoint's own.
};

struct SaveOptions {
  /// How many complete checkpoints the directory keeps, the new one among them: of those before it, the ones of the
  /// last steps. 0: all.
  std::size_t keep = 0;

  /// The host's own bytes of this rank (where its data loader is, its generator's state), given back by
  /// `load_checkpoint`.
  std::span<const std::byte> host_bytes{};

  /// Host memory that states pass through; no budget holds it.
  Bytes buffer = 4_MiB;

  SaveBy by = SaveBy::linking;

  /// nullptr: the file system of this host.
  CheckpointFiles* files = nullptr;
};

struct SavedCheckpoint {
  std::int64_t step;
  std::string path;  ///< The directory of the checkpoint.
  Bytes written;     ///< By this rank: what was copied, and what says where everything is.
  Bytes linked;      ///< Of this rank: master weights and states that were not written, because their files are the
                     ///< checkpoint's now.

  /// On rank 0: older checkpoints that were to be removed and could not be, and why. The new one is complete all the
  /// same.
  std::vector<std::string> not_removed;
};

/// Whether a checkpoint is the model's, or may be another's.
enum class CheckpointMatch : std::uint8_t {
  strict,   ///< It has the same parameters, of the same shapes, trainable or frozen alike, and the optimizer's states.
  partial,  ///< What has the name and the shape of a parameter is taken, with the step and the loss scale; every other
            ///< parameter stays as it is.
};

/// When a load compares checksums.
enum class CheckpointCheck : std::uint8_t {
  before_changes,  ///< Before anything is changed: what is damaged leaves the model as it is. All that a rank takes is
                   ///< read twice.
  while_loading,   ///< As it is taken, and so most of it is read once: what is damaged leaves the model loaded in part,
                   ///< and the error says so. For a model that has nothing to lose. What lies in linked files, or is
                   ///< cut into other shards now, is compared before all the same.
};

struct LoadOptions {
  /// Of that step; none: the latest.
  std::optional<std::int64_t> step = std::nullopt;

  CheckpointMatch match = CheckpointMatch::strict;

  CheckpointCheck check = CheckpointCheck::before_changes;

  /// Host memory that states pass through; no budget holds it. A read is of what it has room for of one array.
  Bytes buffer = 12_MiB;

  /// nullptr: the file system of this host.
  CheckpointFiles* files = nullptr;
};

/// A setting of the optimizer whose value is not the one that it was saved with.
struct SettingDifference {
  std::string name;
  std::optional<double> saved;  ///< None: the checkpoint does not have it.
  std::optional<double> now;    ///< None: the optimizer does not have it.

  bool operator==(const SettingDifference&) const = default;
};

/// What was loaded; the same on every rank.
struct LoadedCheckpoint {
  std::int64_t step;
  std::string path;    ///< The directory of the checkpoint.
  std::size_t ranks;   ///< That saved it.
  std::uint64_t seed;  ///< Of the engine that saved it.
  std::string optimizer;

  /// The optimizer's settings are the host's, and none is restored: training goes on with those that it has now. A
  /// schedule changes some rightly; what else is here was changed since. Empty where the optimizer is another one.
  std::vector<SettingDifference> settings_that_differ;

  /// The host's own bytes of each rank that saved it.
  std::vector<std::vector<std::byte>> host_bytes;

  std::vector<std::string> taken;           ///< Parameters with their states, in declaration order.
  std::vector<std::string> without_states;  ///< Taken alone: the checkpoint has no states of them for this optimizer.
                                            ///< Theirs are zeros now, as before the first step.
  std::vector<std::string> reshaped;        ///< Not taken: the checkpoint has another shape.
  std::vector<std::string> missing;         ///< Not taken: the checkpoint does not have them.
  std::vector<std::string> extra;           ///< The checkpoint has them, the model has not.
};

}  // namespace zerospan::inline v0
