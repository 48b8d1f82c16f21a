/// @file
/// CheckpointSaver: saves while training goes on. Needs nlohmann-json and xxHash.
///
/// @code
/// zerospan::CheckpointSaver saver{engine, "/data/run-1"};
/// for (std::int64_t step = 1; step <= last; ++step) {
///   train(engine);
///   if (step % 100 == 0) saver.start({.keep = 3});
///   if (const auto saved = saver.poll()) report(saved->path);
/// }
/// saver.wait();
/// @endcode
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/save_checkpoint.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

/// Saves checkpoints of one engine into one directory while it trains, one at a time. What is saved are the states of
/// one moment, whatever is trained meanwhile.
///
/// `start` returns when files have been linked and everything else that is not in the host's memory has been written
/// (states on a tier that cannot be linked, in memory of a device, and frozen parameters). States in the host's memory
/// are written from where they are, on a thread of its own; a step waits, sub-group by sub-group, until those that it is
/// about to change have been. Everything is made durable on that thread, and older checkpoints are removed on one.
///
/// Its members are collectives: every rank calls them in the same order. An error of a save (CheckpointError) is thrown
/// on all ranks alike by the first of them that learns of it, and ends that save; training can go on, and save again.
/// They throw whatever the engine throws, besides. The end of a saver that still saves is none: what is not complete is
/// given up, and the next save in the directory removes it.
class CheckpointSaver {
 public:
  template <ParameterHost E>
  CheckpointSaver(E& engine, const std::string& directory)
      : store_{engine.store()},
        engine_{detail::engine_of(*store_, "a checkpoint")},
        directory_{detail::checked_path(directory, "directory", "a checkpoint")} {}

  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;
  ~CheckpointSaver() = default;

  /// Begins to save the training as it is now, between two steps, and first waits for the save before it, if that is not
  /// complete yet. @param options `host_bytes` are copied. @return That one.
  /// @throws as `save_checkpoint`. If the save before it has failed, that is thrown, and none is begun.
  std::optional<SavedCheckpoint> start(const SaveOptions& options = {}) {
    std::optional<SavedCheckpoint> before = wait();
    save_ = std::make_unique<detail::CheckpointSave>(engine_, options.files ? *options.files : files_, directory_,
                                                     options);
    return before;
  }

  /// Waits for nothing but what ranks tell each other. @return The checkpoint that was begun, once it is complete.
  std::optional<SavedCheckpoint> poll() {
    if (!save_ || !guarded([&] { return save_->is_done(); })) return std::nullopt;
    return advance();
  }

  /// Waits for the save that was begun. @return Its checkpoint; nothing if there is none.
  std::optional<SavedCheckpoint> wait() {
    while (save_) {
      if (std::optional<SavedCheckpoint> saved = advance()) return saved;
    }
    return std::nullopt;
  }

  /// Whether a save has been begun that is neither complete nor has failed. Not a collective; the same on all ranks.
  bool is_saving() const noexcept { return save_ != nullptr; }

 private:
  std::optional<SavedCheckpoint> advance() {
    std::optional<SavedCheckpoint> saved = guarded([&] { return save_->advance(); });
    if (saved) save_.reset();
    return saved;
  }

  /// What fails ends the save.
  template <class F>
  std::invoke_result_t<F> guarded(F call) {
    try {
      return call();
    } catch (...) {
      save_.reset();
      throw;
    }
  }

  FileSystem files_;
  std::shared_ptr<ParameterStore> store_;
  detail::Engine& engine_;
  std::string directory_;
  std::unique_ptr<detail::CheckpointSave> save_;
};

}  // namespace zerospan::inline v0
