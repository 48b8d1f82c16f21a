/// @file
/// Checkpoints: a training is saved, and goes on after a load, on any number of ranks. Needs nlohmann-json and xxHash.
///
/// @code
/// zerospan::save_checkpoint(engine, "/data/run-1", {.keep = 3});
///
/// if (zerospan::find_checkpoint(engine, "/data/run-1")) {
///   step = zerospan::load_checkpoint(engine, "/data/run-1").step;
/// }
/// @endcode
///
/// **What it is.** `DIR/step-8` has, of each rank that saved it, `rank-0.data`: the fp32 master weights (in halves, if
/// the engine keeps them so: `MasterWeights::split`) and each array of the optimizer's states (of parameters that were
/// declared frozen, their values in their own type), extent after extent, or files of a tier that have them, as they
/// were when the step had ended (`rank-0.1.data` and so on); and `rank-0.json`: which elements of which parameter each
/// extent has, and checksums (XXH3). Nothing in it depends on how many ranks there were, on stage, placement or
/// communicator. `DIR/step-8/manifest.json` has everything else: shapes,
/// types, the optimizer's name and settings, how often each parameter was updated, the step, the loss scale.
/// `DIR/latest` names the latest checkpoint. All ranks see the same directory.
///
/// **When it is there.** Everything is durable (fsync) before what names it is made: data and parts, then the manifest,
/// then `latest`. Whenever a process or a machine stops, `latest` names a checkpoint that is whole, this one or the one
/// before. Checkpoints are ordered by their steps; no clock is asked. A directory is one training's: two that save into
/// it at once are told, by a lock on `DIR/lock`.
///
/// **What it costs.** `save_checkpoint` blocks: every rank streams what it holds from its tiers to its file, through
/// one buffer at most, and nothing is trained meanwhile. A `CheckpointSaver` saves while training goes on. What several
/// ranks hold alike is written by one of them. A load reads twice what a rank holds: once to compare checksums, before
/// anything is changed, and once to take it; with `CheckpointCheck::while_loading` once.
///
/// **What it costs not.** States on an NvmeTier are rewritten by every step anyway. Where the checkpoint is on the
/// tier's file system, their files become the checkpoint's by a link, and the next step writes to new ones: no byte of
/// them is written by the save. The first save reads them back once, for their checksums; from then on they are made
/// while steps write. It takes the space that copies would take; the first checkpoint has all that was in the tier's
/// file, besides, and a sub-group that no step changes keeps the file that it is in. Where a link is impossible, behind
/// an adaptor of tiers for one, states are copied: `SavedCheckpoint::linked` says how much was not.
///
/// **What is not in it.** Gradients: it is made between steps. What the host has of its own, besides `host_bytes`. The
/// optimizer's settings are written down, and not restored: they are the host's. A load says which of them are others
/// than those that were saved (`LoadedCheckpoint::settings_that_differ`).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/checkpoint_saver.hpp>
#include <zerospan/checkpoint/detail/load_checkpoint.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Calls `f(files, directory)` with the files that were given, or with this host's.
template <class F>
decltype(auto) with_files(CheckpointFiles* given, const std::string& directory, F f) {
  FileSystem file_system;
  return f(given ? *given : file_system, checked_path(directory, "directory", "a checkpoint"));
}

}  // namespace detail

/// Saves the training as it is now, between two steps; a collective. Declaration ends, as at the first gather. The
/// directory is made if it is not there. The checkpoints in it stay as they are until the new one is complete; then
/// `options.keep` says which of them stay. If it fails, on whichever rank, the latest checkpoint is the one that was,
/// and training can go on.
/// @throws CheckpointError on all ranks alike: the file system refuses something (`error_number()`, ENOSPC for one), or
/// another job is saving into the directory. ConfigurationError if the optimizer does not say what its states are
/// (`NamesStates`), or the buffer is too small. LeaseError if this is not between two steps. Whatever the engine
/// throws.
template <ParameterHost E>
SavedCheckpoint save_checkpoint(E& engine, const std::string& directory, const SaveOptions& options = {}) {
  CheckpointSaver saver{engine, directory};
  saver.start(options);
  return saver.wait().back();
}

/// The step of the checkpoint that `load_checkpoint` would take from a directory, if there is one; a collective.
/// @throws as `load_checkpoint`.
template <ParameterHost E>
[[nodiscard]] std::optional<std::int64_t> find_checkpoint(E& engine, const std::string& directory,
                                                          const LoadOptions& options = {}) {
  const std::shared_ptr<ParameterStore> store = engine.store();
  return detail::with_files(options.files, directory, [&](CheckpointFiles& files, const std::string& path) {
    return detail::CheckpointReader{detail::engine_of(*store, "a checkpoint"), files, path, options}.find();
  });
}

/// Makes the training what it was when the checkpoint was saved, whatever it has done since; a collective. The number
/// of ranks, the stage, the placement and the parameters' types may be others than then: master weights and states are
/// equal to the bit, and where the number of ranks is the same, so is all that follows. Each rank reads what it holds.
/// @throws CheckpointError on all ranks alike, before anything is changed: there is no checkpoint; its version is
/// newer; a file is missing, truncated or damaged; with `CheckpointMatch::strict`, parameters, shapes or the
/// optimizer's states are not the model's. If a file fails that was read before, or is found damaged
/// only then (`CheckpointCheck::while_loading`), the model is loaded in part, and the error says so. Otherwise as
/// `save_checkpoint`.
template <ParameterHost E>
LoadedCheckpoint load_checkpoint(E& engine, const std::string& directory, const LoadOptions& options = {}) {
  const std::shared_ptr<ParameterStore> store = engine.store();
  return detail::with_files(options.files, directory, [&](CheckpointFiles& files, const std::string& path) {
    return detail::CheckpointReader{detail::engine_of(*store, "a checkpoint"), files, path, options}.load();
  });
}

}  // namespace zerospan::inline v0
