/// @file
/// CheckpointSaver: saves while training goes on. Needs nlohmann-json and xxHash.
///
/// @code
/// zerospan::CheckpointSaver saver{engine, "/data/run-1"};
/// for (std::int64_t step = 1; step <= last; ++step) {
///   train(engine);
///   if (step % 100 == 0) saver.start({.keep = 3});
///   for (const auto& saved : saver.poll()) report(saved.path);
/// }
/// saver.wait();
/// @endcode
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/save_checkpoint.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

/// Saves checkpoints of one engine into one directory while it trains. What is saved are the states of one moment,
/// whatever is trained meanwhile.
///
/// `start` waits for no update of the step before, and returns before anything has been written but what is in memory
/// of a device. On a thread of its own, files are linked when the updates of all that is in them have ended, and all
/// else is written: from where it is in the host's memory, or read from its tier. A step waits, sub-group by sub-group,
/// for those that it is about to change. Everything is made durable on that thread. When every rank's is, rank 0
/// completes the checkpoint and removes older ones, on a thread too: the next save may begin meanwhile. So there may be
/// two more checkpoints for a while than are kept.
///
/// Its members are collectives: every rank calls them in the same order. They return the checkpoints that have become
/// complete, in order, each once. An error of a save (CheckpointError, which names its file) is thrown on all ranks
/// alike by the first of them that learns of it, and ends that save, and no other; training can go on, and save again.
/// They throw whatever the engine throws, besides. What has become complete when one throws is returned by the next.
/// The end of a saver is no collective: what is not complete is given up, and the next save in the directory removes
/// it.
///
/// A load from the directory comes after `wait`: a save that becomes complete may remove what is loaded.
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

  /// Begins to save the training as it is now, between two steps, and first waits until every rank has written what the
  /// save before it began, and the one before that is complete.
  /// @param options `host_bytes` are copied; `files` outlive the save.
  /// @throws as `save_checkpoint`. If a save before it has failed, that is thrown, and none is begun.
  std::vector<SavedCheckpoint> start(const SaveOptions& options = {}) {
    CheckpointFiles& files = options.files ? *options.files : files_;
    if (&files != files_of_saves_) finish_all();
    if (writing_ && completing_) finish();
    if (writing_) hand_over();
    files_of_saves_ = &files;
    writing_ = std::make_unique<detail::CheckpointSave>(engine_, files, directory_, options, completing_.get());
    return take_complete();
  }

  /// Waits for nothing but what ranks tell each other.
  std::vector<SavedCheckpoint> poll() {
    if (completing_ && guarded(completing_, [&] { return completing_->is_done(); })) finish();
    if (!completing_ && writing_ && guarded(writing_, [&] { return writing_->is_done(); })) hand_over();
    return take_complete();
  }

  /// Waits for everything that has been begun.
  std::vector<SavedCheckpoint> wait() {
    finish_all();
    return take_complete();
  }

  /// Whether a save has been begun that is neither complete nor has failed. Not a collective; the same on all ranks.
  bool is_saving() const noexcept { return completing_ || writing_; }

 private:
  using Save = std::unique_ptr<detail::CheckpointSave>;

  /// Waits until all ranks have written, and has rank 0 complete the checkpoint.
  void hand_over() {
    guarded(writing_, [&] { return writing_->advance(); });
    completing_ = std::move(writing_);
  }

  /// Waits until the checkpoint is complete.
  void finish() {
    complete_.push_back(guarded(completing_, [&] { return completing_->advance().value(); }));
    completing_.reset();
  }

  void finish_all() {
    while (is_saving()) {
      if (completing_) finish();
      if (writing_) hand_over();
    }
  }

  std::vector<SavedCheckpoint> take_complete() { return std::exchange(complete_, {}); }

  /// What fails ends the save.
  template <class F>
  static std::invoke_result_t<F> guarded(Save& save, F call) {
    try {
      return call();
    } catch (...) {
      save.reset();
      throw;
    }
  }

  FileSystem files_;
  std::shared_ptr<ParameterStore> store_;
  detail::Engine& engine_;
  std::string directory_;
  const CheckpointFiles* files_of_saves_ = nullptr;
  Save completing_;
  Save writing_;
  std::vector<SavedCheckpoint> complete_;  ///< Not told yet.
};

}  // namespace zerospan::inline v0
