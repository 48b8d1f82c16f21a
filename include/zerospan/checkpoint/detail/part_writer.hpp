/// @file
/// PartWriter: what one rank writes of a checkpoint.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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
#include <zerospan/checkpoint/detail/states_linker.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/convert.hpp>

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

/// Writes one rank's data of a checkpoint, and its part, which lists the data and the files that were linked. It knows
/// no engine: the last of it is done on a thread of its own, while the engine trains.
class PartWriter {
 public:
  /// @param model Like all the others, outlives it.
  PartWriter(CheckpointFiles& files, const CheckpointDirectory& directory, const CheckpointName& name,
             const EngineDescription& model)
      : files_{files},
        directory_{directory},
        name_{name},
        model_{model},
        data_{files.create(directory.data_of(name, model.place))} {}

  /// Has files linked where states rest. @return Of each place, whether all of it needs not be written.
  std::vector<bool> link(std::span<const StatesPlace> places) {
    StatesLinker linker{model_, part_};
    LinkedNames names{files_, directory_, name_, model_.place, linked_files_};
    std::vector<bool> are_linked = linker.link(places, names);
    linked_ = linker.bytes();
    return are_linked;
  }

  /// Writes what an engine shows.
  void write(const StatesPiece& piece) {
    for_parameter(piece.parameter, [&] {
      auto& components = components_of(piece.parameter, 1 + piece.states.size());
      if (piece.training == Training::frozen && piece.type != ElementType::float32) {
        write_narrow(piece, components[0]);
      } else {
        data_.append(piece.first, sizeof(float), std::as_bytes(piece.master), components[0]);
      }
      for (std::size_t s = 0; s < piece.states.size(); ++s) {
        data_.append(piece.first, element_bytes(model_.states[s].type), piece.states[s], components[1 + s]);
      }
    });
  }

  /// Says what of places in memory `write_in_memory` will read.
  void expect(std::span<const StatesPlace> places, StatesBeingRead& reading) const {
    for (const StatesPlace& place : places) {
      for_each_extent(place, [&](std::size_t, std::uint64_t, std::span<const std::byte>) {
        reading.expect(place.group, 1);
      });
    }
  }

  /// Writes places that are in memory, as they are there, each before the engine changes it.
  /// @throws CheckpointError if the engine ends meanwhile.
  void write_in_memory(std::span<const StatesPlace> places, StatesBeingRead& reading) {
    for (const StatesPlace& place : places) {
      const std::string& parameter = model_.parameters[place.parameter].name;
      for_parameter(parameter, [&] {
        auto& components = components_of(parameter, 1 + model_.states.size());
        for_each_extent(place, [&](std::size_t c, std::uint64_t first, std::span<const std::byte> bytes) {
          const auto append = [&] { data_.append(first, width(c), bytes, components[c]); };
          if (!reading.read(place.group, append)) {
            throw_checkpoint_error("the engine has ended before its states were saved",
                                   directory_.data_of(name_, model_.place));
          }
        });
      });
    }
  }

  /// Writes the host's bytes, makes everything durable, and then the part that lists it. @return What the manifest says
  /// of that.
  StoredPart finish(std::span<const std::byte> host_bytes) {
    data_.append(0, 1, host_bytes, part_.host);
    data_.sync();
    for (const std::string& path : linked_files_) files_.sync_file(path);
    part_.bytes = data_.bytes();
    const std::string path = directory_.part_of(name_, model_.place);
    const std::string text = part_text(part_, path);
    const auto file = files_.create(path);
    file->write(std::as_bytes(std::span{text}));
    file->sync();
    files_.sync_directory(directory_.path_of(name_));
    written_ = data_.bytes() + text.size();
    return {text.size(), checksum(text)};
  }

  std::size_t written() const noexcept { return written_; }
  std::size_t linked() const noexcept { return linked_; }

 private:
  std::size_t width(std::size_t component) const {
    return component == 0 ? sizeof(float) : element_bytes(model_.states[component - 1].type);
  }

  /// Calls `f(component, first, bytes)` for pieces of a place in memory, each of which is one extent of the data.
  template <class F>
  void for_each_extent(const StatesPlace& place, F f) const {
    for (std::size_t c = 0; c < 1 + model_.states.size(); ++c) {
      const std::size_t most = DataWriter::extent_bytes / width(c);
      for (std::size_t done = 0; done < place.range.elements; done += most) {
        const std::size_t elements = std::min<std::size_t>(most, place.range.elements - done);
        f(c, place.range.first + done,
          std::span{place.on_host + place.offsets[c] + done * width(c), elements * width(c)});
      }
    }
  }

  std::vector<std::vector<StoredExtent>>& components_of(std::string_view parameter, std::size_t count) {
    if (part_.pieces.empty() || part_.pieces.back().parameter != parameter) {
      part_.pieces.push_back({std::string{parameter}, {}});
      part_.pieces.back().components.resize(count);
    }
    return part_.pieces.back().components;
  }

  /// Values of 16 bits, which were widened.
  void write_narrow(const StatesPiece& piece, std::vector<StoredExtent>& extents) {
    constexpr std::size_t most = std::size_t{64} << 10;
    std::vector<std::byte> narrow(std::min(most, piece.master.size()) * element_bytes(piece.type));
    for (std::size_t done = 0; done < piece.master.size(); done += most) {
      const std::size_t count = std::min(most, piece.master.size() - done);
      from_float(piece.master.data() + done, piece.type, narrow.data(), count);
      data_.append(piece.first + done, element_bytes(piece.type),
                   std::span{narrow}.first(count * element_bytes(piece.type)), extents);
    }
  }

  CheckpointFiles& files_;
  const CheckpointDirectory& directory_;
  CheckpointName name_;
  const EngineDescription& model_;
  DataWriter data_;
  Part part_{};
  std::vector<std::string> linked_files_;
  std::size_t written_ = 0;
  std::size_t linked_ = 0;
};

}  // namespace zerospan::inline v0::detail
