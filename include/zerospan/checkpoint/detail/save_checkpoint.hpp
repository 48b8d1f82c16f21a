/// @file
/// CheckpointSave: saves the states of an engine, while it trains.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/checkpoint_directory.hpp>
#include <zerospan/checkpoint/detail/checkpoint_outcome.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/checkpoint/detail/part_writer.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/background_work.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>

namespace zerospan::inline v0::detail {

/// One checkpoint, from its begin until it is complete or has failed. Each rank links the files that its states are in,
/// and writes the rest of its data, and its part, which lists all of it: on a thread of its own, when the updates that
/// are under way have ended, and before the engine changes anything again. When all parts are durable, rank 0 writes the
/// manifest, which makes the checkpoint complete, names it the latest, and removes older ones, on such a thread too.
///
/// Its members but `is_done` are collectives. An error is told on all ranks, and ends it.
class CheckpointSave {
 public:
  /// Begins: the engine may train as soon as this has returned. An error of this rank's files alone is told by
  /// `advance`.
  /// @param before A save into the same directory of which the parts are written, and which may not be complete; or
  /// nullptr.
  CheckpointSave(Engine& engine, CheckpointFiles& files, const std::string& directory, const SaveOptions& options,
                 const CheckpointSave* before)
      : engine_{engine},
        files_{files},
        options_{options},
        host_bytes_{options.host_bytes.begin(), options.host_bytes.end()},
        model_{engine.describe()},
        ranks_{engine, model_.place, model_.places},
        directory_{files, directory} {
    name_.step = model_.progress.step;
    if (!before) ranks_.together([] {});  // no rank writes any more to what was given up, and is removed now
    const auto copy = ranks_.by_first(1, [&] {
      if (before) {
        lock_ = before->lock_;
      } else {
        directory_.make();
        is_made_ = true;
        lock_ = directory_.lock();
        directory_.remove_incomplete();
      }
      name_ = directory_.next_name(name_.step);
      files_.make_directory(directory_.path_of(name_));
      return std::vector<std::int64_t>{name_.copy};
    });
    name_.copy = copy[0];
    try {
      begin_part();
    } catch (...) {
      lock_.reset();  // nothing is removed: other ranks may be about to begin, and are to see for themselves
      give_up();
      throw;
    }
  }

  CheckpointSave(const CheckpointSave&) = delete;
  CheckpointSave& operator=(const CheckpointSave&) = delete;

  /// Not a collective. What is not complete is given up.
  ~CheckpointSave() { give_up(); }

  /// Whether all ranks have done what `advance` would wait for.
  bool is_done() {
    process_.check("a save");
    std::int64_t busy = work_.is_done() ? 0 : 1;
    engine_.sum_over_ranks({&busy, 1}, "ranks that still save");
    return busy == 0;
  }

  /// Waits for what has been begun: first every rank's part, then the checkpoint. @return Nothing after the first.
  std::optional<SavedCheckpoint> advance() {
    process_.check("a save");
    if (!are_parts_written_) {
      ranks_.together([&] {
        if (failure_) throw CheckpointError{*failure_};
        if (reading_->awaits_engine()) engine_.synchronize();
        work_.wait();
      });
      are_parts_written_ = true;
      const std::vector<std::int64_t> parts = ranks_.of_all(
          std::array{static_cast<std::int64_t>(stored_.bytes), static_cast<std::int64_t>(stored_.checksum)});
      ranks_.together([&] {
        if (model_.place != 0) return;
        begin_work("the thread that completes a checkpoint", [this, parts] {
          complete(parts);
          if (options_.keep > 0) remove_older();
        });
      });
      return std::nullopt;
    }
    ranks_.together([&] { work_.wait(); });
    is_named_ = true;
    return SavedCheckpoint{name_.step, directory_.path_of(name_), Bytes{part_->written()}, Bytes{part_->linked()},
                           std::move(not_removed_)};
  }

 private:
  void begin_part() {
    try {
      for_parameter({}, [&] {
        part_.emplace(files_, directory_, name_, model_, options_.buffer);
        places_ = engine_.places_of_states();
        const auto is_out_of_reach = [](const StatesPlace& place) { return !place.is_in_reach(); };
        if (std::ranges::any_of(places_, is_out_of_reach)) write_out_of_reach();
        part_->expect(places_, options_.by, *reading_);
        begin_work("the thread that writes a checkpoint", [this] {
          const Reading until_then{*reading_};
          part_->write(places_, options_.by, *reading_);
          stored_ = part_->finish(host_bytes_);
        });
      });
    } catch (const CheckpointError& error) {
      failure_ = error;
      return;
    }
    engine_.let_read(reading_);
  }

  /// Has the engine show what the host cannot read, and leaves the rest.
  void write_out_of_reach() {
    std::erase_if(places_, [](const StatesPlace& place) { return !place.is_in_reach(); });
    std::vector<std::vector<StatesRange>> left_out(model_.parameters.size());
    for (const StatesPlace& place : places_) left_out[place.parameter].push_back(place.range);
    std::size_t parameter = 0;  // they are shown in the order of declaration
    const auto write = [&](const StatesPiece& piece) {
      while (model_.parameters[parameter].name != piece.parameter) ++parameter;
      part_->write(piece, parameter);
    };
    engine_.for_each_state(write, options_.buffer, left_out);
  }

  template <class F>
  void begin_work(const std::string& purpose, F work) {
    try {
      work_.start(purpose, std::move(work));
    } catch (const ConfigurationError& error) {
      throw_checkpoint_error(error.what(), directory_.path_of(name_));
    }
  }

  /// @param parts Of each rank: the bytes and the checksum of its part.
  void complete(std::span<const std::int64_t> parts) {
    Manifest manifest{model_.progress, model_.seed, model_.optimizer, model_.settings, {}, {}, {}};
    for (const StateArray& array : model_.states) {
      manifest.states.push_back({std::string{array.name}, array.type, array.form});
    }
    for (const ParameterDescription& parameter : model_.parameters) {
      manifest.parameters.push_back(
          {parameter.name, parameter.shape, parameter.type, parameter.training, parameter.is_split, parameter.updates});
    }
    for (std::size_t rank = 0; rank < model_.places; ++rank) {
      manifest.parts.push_back(
          {static_cast<std::uint64_t>(parts[2 * rank]), static_cast<std::uint64_t>(parts[2 * rank + 1])});
    }
    if (is_made_) directory_.make_durable();
    const std::string text = manifest_text(manifest, directory_.manifest_of(name_));
    bool is_complete = false;
    directory_.replace(directory_.path_of(name_), CheckpointDirectory::manifest_file, text, is_complete);
    files_.sync_directory(directory_.path());
    directory_.replace(directory_.path(), "latest", name_.text() + "\n", is_named_);
  }

  void remove_older() {
    const auto attempt = [&](const CheckpointName& name) {
      try {
        directory_.remove(name);
      } catch (const IoError& error) {
        not_removed_.push_back(name.text() + ": " + error.what());
      }
    };
    try {
      std::vector<CheckpointName> others = directory_.complete();
      std::erase(others, name_);
      while (others.size() >= options_.keep) {
        attempt(others.front());
        others.erase(others.begin());
      }
    } catch (const IoError& error) {
      not_removed_.push_back(error.what());
    }
  }

  /// Ends this rank's work, and on rank 0 removes what was written, as far as the file system lets it: the next save
  /// removes the rest.
  void give_up() noexcept {
    if (!process_.is_this()) return;  // it goes on in its own
    reading_->stop();
    try {
      work_.wait();
    } catch (...) {  // the checkpoint is given up in any case
    }
    reading_->give_up();
    if (!lock_ || is_named_) return;
    try {
      directory_.remove(name_);
    } catch (...) {  // the error that is under way says more
    }
  }

  /// Whatever becomes of the reader, nobody waits for it any more.
  struct Reading {
    StatesBeingRead& states;
    ~Reading() { states.give_up(); }
  };

  OwnProcess process_;
  Engine& engine_;
  CheckpointFiles& files_;
  SaveOptions options_;
  std::vector<std::byte> host_bytes_;
  EngineDescription model_;
  CheckpointOutcome ranks_;
  CheckpointDirectory directory_;
  CheckpointName name_{};
  std::shared_ptr<CheckpointFiles::Lock> lock_;  ///< Of rank 0.
  std::optional<PartWriter> part_;
  std::vector<StatesPlace> places_;  ///< That the thread reads.
  std::shared_ptr<StatesBeingRead> reading_ = std::make_shared<StatesBeingRead>();
  std::optional<CheckpointError> failure_;  ///< Of what this rank has begun.
  StoredPart stored_{};
  bool are_parts_written_ = false;
  bool is_made_ = false;   ///< It may have made the directory of all checkpoints.
  bool is_named_ = false;  ///< It may be the latest already.
  std::vector<std::string> not_removed_;
  BackgroundWork work_;
};

}  // namespace zerospan::inline v0::detail
