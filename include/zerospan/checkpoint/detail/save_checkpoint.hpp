/// @file
/// CheckpointWriter: saves the states of an engine.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/checkpoint_directory.hpp>
#include <zerospan/checkpoint/detail/checkpoint_outcome.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/tier/linkable_extents.hpp>

namespace zerospan::inline v0::detail {

/// The data of one rank, as it is written: extents one after the other.
class DataWriter {
 public:
  /// Of an extent at most. A reader that wants a part of one has to look at all of it.
  static constexpr std::size_t extent_bytes = std::size_t{4} << 20;

  explicit DataWriter(std::unique_ptr<CheckpointFiles::Writer> file) : file_{std::move(file)} {}

  std::uint64_t bytes() const noexcept { return bytes_; }
  void sync() { file_->sync(); }

  /// Appends elements of `width` bytes, from logical element `first` on, and lists their extents.
  void append(std::uint64_t first, std::size_t width, std::span<const std::byte> bytes,
              std::vector<StoredExtent>& extents) {
    while (!bytes.empty()) {
      const std::span<const std::byte> extent = bytes.first(std::min(bytes.size(), extent_bytes));
      file_->write(extent);
      extents.push_back({first, extent.size() / width, bytes_, checksum(extent)});
      first += extent.size() / width;
      bytes_ += extent.size();
      bytes = bytes.subspan(extent.size());
    }
  }

 private:
  std::unique_ptr<CheckpointFiles::Writer> file_;
  std::uint64_t bytes_ = 0;
};

/// The names of one rank's linked files in a checkpoint.
class LinkedNames final : public FileNaming {
 public:
  /// @param named How many it has already.
  LinkedNames(CheckpointFiles& files, const CheckpointDirectory& directory, const CheckpointName& checkpoint,
              std::size_t rank, std::size_t named)
      : files_{files}, directory_{directory}, checkpoint_{checkpoint}, rank_{rank}, named_{named} {}

  bool can_name(int descriptor) override { return files_.can_link(descriptor, directory_.path_of(checkpoint_)); }

  bool name(int descriptor) override {
    const bool is_named = files_.link(descriptor, directory_.linked_of(checkpoint_, rank_, named_ + 1));
    named_ += is_named ? 1 : 0;
    return is_named;
  }

 private:
  CheckpointFiles& files_;
  const CheckpointDirectory& directory_;
  CheckpointName checkpoint_;
  std::size_t rank_;
  std::size_t named_;
};

/// Has the files of tiers linked that states rest in, and lists in a part what is where.
class StatesLinker {
 public:
  StatesLinker(const EngineDescription& model, Part& part)
      : model_{model}, part_{part}, left_out_(model.parameters.size()) {
    widths_.push_back(sizeof(float));
    for (const StateArray& array : model.states) widths_.push_back(element_bytes(array.type));
  }

  /// @param make_names Called as `make_names(named)` for a FileNaming. @throws IoError
  template <class MakeNames>
  void link(const std::vector<StatesPlace>& places, MakeNames make_names) {
    std::vector<LinkableExtents*> tiers;  // of all places, in their order
    for (const StatesPlace& place : places) {
      LinkableExtents* const tier = place.tier.linkable();
      if (tier && std::ranges::find(tiers, tier) == tiers.end()) tiers.push_back(tier);
    }
    std::map<LinkableExtents*, LinkedOfTier> linked;
    for (LinkableExtents* const tier : tiers) {
      std::map<std::uint64_t, std::size_t> sizes;  // of extents, by their offsets: some have several places
      for (const StatesPlace& place : places) {
        if (place.tier.linkable() == tier) sizes.emplace(place.extent.offset, place.extent.bytes);
      }
      std::vector<Extent> extents;
      for (const auto& [offset, bytes] : sizes) extents.push_back({offset, bytes});
      auto names = make_names(part_.files.size());
      LinkedExtents of_tier = tier->link(extents, &checksum_of_bytes, names);
      linked[tier] = {std::move(of_tier.ranges), part_.files.size() + 1};
      for (LinkedFile& file : of_tier.files) part_.files.push_back(std::move(file));
    }
    for (const StatesPlace& place : places) {
      if (const auto found = linked.find(place.tier.linkable()); found != linked.end()) list(place, found->second);
    }
  }

  /// Of each parameter: what needs not be copied.
  std::span<const std::vector<StatesRange>> left_out() const noexcept { return left_out_; }

  /// Of what needs not be copied.
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  struct LinkedOfTier {
    std::vector<LinkedRange> ranges;
    std::size_t first_file;  ///< The number of the first of them, among the rank's.
  };

  static std::uint64_t checksum_of_bytes(std::span<const std::byte> bytes) noexcept { return checksum(bytes); }

  /// Lists a place, if all of it was linked.
  void list(const StatesPlace& place, const LinkedOfTier& linked) {
    std::vector<std::vector<StoredExtent>> components(widths_.size());
    std::size_t bytes = 0;
    for (std::size_t c = 0; c < widths_.size(); ++c) {
      const std::uint64_t begin = place.extent.offset + place.offsets[c];
      const std::uint64_t end = begin + place.range.elements * widths_[c];
      const auto offset = [](const LinkedRange& range) { return range.range.offset; };
      auto next = std::ranges::upper_bound(linked.ranges, begin, {}, offset);
      if (next == linked.ranges.begin()) return;
      std::uint64_t done = begin;
      for (--next; next != linked.ranges.end() && next->range.offset <= done && done < end; ++next) {
        const std::uint64_t until = std::min(end, next->range.offset + next->range.bytes);
        if (until <= done) return;
        components[c].push_back({place.range.first + (done - begin) / widths_[c], (until - done) / widths_[c], done, 0,
                                 linked.first_file + next->file});
        done = until;
      }
      if (done < end) return;
      bytes += static_cast<std::size_t>(end - begin);
    }
    part_.pieces.push_back({model_.parameters[place.parameter].name, std::move(components)});
    left_out_[place.parameter].push_back(place.range);
    bytes_ += bytes;
  }

  const EngineDescription& model_;
  Part& part_;
  std::vector<std::size_t> widths_;  ///< Of an element of each component.
  std::vector<std::vector<StatesRange>> left_out_;
  std::size_t bytes_ = 0;
};

/// Saves one checkpoint. Each rank links the files that its states are in, writes the rest of its data, and lists all
/// of it in its part; when all of them are durable, rank 0 writes the manifest, which makes the checkpoint complete,
/// and then names it the latest.
class CheckpointWriter {
 public:
  CheckpointWriter(Engine& engine, CheckpointFiles& files, const std::string& directory, const SaveOptions& options)
      : engine_{engine},
        files_{files},
        options_{options},
        model_{engine.describe()},
        ranks_{engine, model_.place, model_.places},
        directory_{files, directory} {}

  SavedCheckpoint save() {
    std::unique_ptr<CheckpointFiles::Lock> lock;
    name_.step = model_.progress.step;
    const auto copy = ranks_.by_first(1, [&] {
      directory_.make();
      lock = directory_.lock();
      directory_.remove_incomplete();
      name_ = directory_.next_name(name_.step);
      files_.make_directory(directory_.path_of(name_));
      return std::vector<std::int64_t>{name_.copy};
    });
    name_.copy = copy[0];
    try {
      ranks_.together([&] { write_part(); });
      const std::vector<std::int64_t> parts =
          ranks_.of_all(std::array{static_cast<std::int64_t>(part_.bytes), static_cast<std::int64_t>(part_.checksum)});
      ranks_.together([&] {
        if (model_.place == 0) complete(parts);
      });
    } catch (...) {
      if (lock && !is_named_) give_up();
      throw;
    }
    SavedCheckpoint saved{name_.step, directory_.path_of(name_), Bytes{written_ + part_.bytes}, Bytes{linked_}, {}};
    if (lock && options_.keep > 0) remove_older(saved.not_removed);
    return saved;
  }

 private:
  void write_part() {
    Part part;
    StatesLinker linker{model_, part};
    if (options_.by == SaveBy::linking) {
      linker.link(engine_.places_of_states(),
                  [&](std::size_t named) { return LinkedNames{files_, directory_, name_, model_.place, named}; });
    }
    linked_ = linker.bytes();
    DataWriter data{files_.create(directory_.data_of(name_, model_.place))};
    engine_.for_each_state(
        [&](const StatesPiece& piece) { for_parameter(piece.parameter, [&] { write(piece, data, part); }); },
        options_.buffer, linker.left_out());
    data.append(0, 1, options_.host_bytes, part.host);
    data.sync();
    part.bytes = written_ = data.bytes();
    const std::string path = directory_.part_of(name_, model_.place);
    const std::string text = part_text(part, path);
    const auto file = files_.create(path);
    file->write(std::as_bytes(std::span{text}));
    file->sync();
    files_.sync_directory(directory_.path_of(name_));
    part_ = {text.size(), checksum(text)};
  }

  void write(const StatesPiece& piece, DataWriter& data, Part& part) {
    if (part.pieces.empty() || part.pieces.back().parameter != piece.parameter) {
      part.pieces.push_back({std::string{piece.parameter}, {}});
      part.pieces.back().components.resize(1 + piece.states.size());
    }
    auto& components = part.pieces.back().components;
    if (piece.training == Training::frozen && piece.type != ElementType::float32) {
      write_narrow(piece, data, components[0]);
    } else {
      data.append(piece.first, sizeof(float), std::as_bytes(piece.master), components[0]);
    }
    for (std::size_t s = 0; s < piece.states.size(); ++s) {
      data.append(piece.first, element_bytes(model_.states[s].type), piece.states[s], components[1 + s]);
    }
  }

  /// Values of 16 bits, which were widened.
  static void write_narrow(const StatesPiece& piece, DataWriter& data, std::vector<StoredExtent>& extents) {
    constexpr std::size_t most = std::size_t{64} << 10;
    std::vector<std::byte> narrow(std::min(most, piece.master.size()) * element_bytes(piece.type));
    for (std::size_t done = 0; done < piece.master.size(); done += most) {
      const std::size_t count = std::min(most, piece.master.size() - done);
      from_float(piece.master.data() + done, piece.type, narrow.data(), count);
      data.append(piece.first + done, element_bytes(piece.type),
                  std::span{narrow}.first(count * element_bytes(piece.type)), extents);
    }
  }

  /// @param parts Of each rank: the bytes and the checksum of its part.
  void complete(std::span<const std::int64_t> parts) {
    Manifest manifest{model_.progress, model_.seed, model_.optimizer, model_.settings, {}, {}, {}};
    for (const StateArray& array : model_.states) manifest.states.push_back({std::string{array.name}, array.type});
    for (const ParameterDescription& parameter : model_.parameters) {
      manifest.parameters.push_back(
          {parameter.name, parameter.shape, parameter.type, parameter.training, parameter.updates});
    }
    for (std::size_t rank = 0; rank < model_.places; ++rank) {
      manifest.parts.push_back(
          {static_cast<std::uint64_t>(parts[2 * rank]), static_cast<std::uint64_t>(parts[2 * rank + 1])});
    }
    const std::string text = manifest_text(manifest, directory_.manifest_of(name_));
    bool is_complete = false;
    directory_.replace(directory_.path_of(name_), CheckpointDirectory::manifest_file, text, is_complete);
    files_.sync_directory(directory_.path());
    directory_.replace(directory_.path(), "latest", name_.text() + "\n", is_named_);
  }

  /// Removes what was written, as far as the file system lets it: the next save removes the rest.
  void give_up() noexcept {
    try {
      directory_.remove(name_);
    } catch (...) {  // the error that is under way says more
    }
  }

  void remove_older(std::vector<std::string>& not_removed) {
    const auto attempt = [&](const CheckpointName& name) {
      try {
        directory_.remove(name);
      } catch (const IoError& error) {
        not_removed.push_back(name.text() + ": " + error.what());
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
      not_removed.push_back(error.what());
    }
  }

  Engine& engine_;
  CheckpointFiles& files_;
  SaveOptions options_;
  EngineDescription model_;
  CheckpointOutcome ranks_;
  CheckpointDirectory directory_;
  CheckpointName name_{};
  StoredPart part_{};
  std::size_t written_ = 0;
  std::size_t linked_ = 0;
  bool is_named_ = false;  ///< It may be the latest already.
};

}  // namespace zerospan::inline v0::detail
