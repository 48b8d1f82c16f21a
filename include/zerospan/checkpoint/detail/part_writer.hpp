/// @file
/// PartWriter: what one rank writes of a checkpoint.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
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
#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/piece_memory.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0::detail {

/// The data of one rank, as it is written: extents one after the other.
class DataWriter {
 public:
  /// Of an extent at most. A reader that wants a part of one has to look at all of it.
  static constexpr std::size_t extent_bytes = std::size_t{4} << 20;

  explicit DataWriter(std::unique_ptr<CheckpointFiles::Writer> file) : file_{std::move(file)} {}

  std::uint64_t bytes() const noexcept { return bytes_; }
  void sync() { file_->sync(); }

  /// Appends elements of that width, from logical element `first` on, and lists their extents.
  void append(std::uint64_t first, std::size_t elements, ElementWidth width, const std::byte* bytes,
              std::vector<StoredExtent>& extents) {
    while (elements > 0) {
      const std::size_t count = std::min(elements, width.elements_in(extent_bytes));
      const std::span extent{bytes, width.of(count)};
      file_->write(extent);
      extents.push_back({first, count, bytes_, checksum(extent)});
      first += count;
      elements -= count;
      bytes_ += extent.size();
      bytes += extent.size();
    }
  }

 private:
  std::unique_ptr<CheckpointFiles::Writer> file_;
  std::uint64_t bytes_ = 0;
};

/// Writes one rank's data of a checkpoint, and its part, which lists the data and the files that were linked. It knows
/// no engine: most of it is done on a thread of its own, while the engine trains.
class PartWriter {
 public:
  /// @param model Like all the others, outlives it. @throws ConfigurationError if `buffer` is too small.
  PartWriter(CheckpointFiles& files, const CheckpointDirectory& directory, const CheckpointName& name,
             const EngineDescription& model, Bytes buffer)
      : files_{files},
        directory_{directory},
        name_{name},
        model_{model},
        memory_{model.states, buffer},
        data_{files.create(directory.data_of(name, model.place))} {}

  /// Writes what an engine shows. @param parameter Its index.
  void write(const StatesPiece& piece, std::size_t parameter) {
    for_parameter(piece.parameter, [&] {
      const std::size_t of_values = model_.parameters[parameter].is_split ? 2 : 1;
      auto& components = components_of(piece.parameter, of_values + piece.states.size());
      if (of_values == 2) {
        write_halves(piece, components);
      } else if (piece.training == Training::frozen && piece.type != ElementType::float32) {
        write_narrow(piece, components[0]);
      } else {
        append(piece.first, piece.master, components[0]);
      }
      for (std::size_t s = 0; s < piece.states.size(); ++s) {
        data_.append(piece.first, piece.master.size(), model_.states[s].width(), piece.states[s].data(),
                     components[of_values + s]);
      }
    });
  }

  /// Announces what `write` reads.
  void expect(std::span<const StatesPlace> places, SaveBy by, StatesBeingRead& reading) const {
    for (const StatesPlace& place : places) reading.expect(place.group);
    for (const Group neighbour : neighbours_of(places, by)) reading.expect(neighbour);
  }

  /// Writes places that the host can read, or has their files linked, each before the engine changes it.
  /// @param reading Expects them. @throws CheckpointError if the engine ends meanwhile.
  void write(std::span<const StatesPlace> places, SaveBy by, StatesBeingRead& reading) {
    std::vector<bool> are_linked(places.size());
    const std::vector<Group> neighbours = neighbours_of(places, by);
    if (by == SaveBy::linking) are_linked = link(places, neighbours, reading);
    for (const Group neighbour : neighbours) reading.done_with(neighbour);
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (!are_linked[i]) write(places[i], reading);
      reading.done_with(places[i].group);
    }
  }

  /// Writes the host's bytes, makes everything durable, and then the part that lists it. @return What the manifest says
  /// of that.
  StoredPart finish(std::span<const std::byte> host_bytes) {
    append(0, host_bytes, part_.host);
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
  using Group = StatesBeingRead::Group;

  /// Elements that are converted before they are written.
  static constexpr std::size_t most_at_once = std::size_t{64} << 10;

  /// Of what is linked: the sub-groups that have extents in common, each once. What is copied waits for none of them.
  std::vector<Group> neighbours_of(std::span<const StatesPlace> places, SaveBy by) const {
    if (by != SaveBy::linking) return {};
    std::vector<Group> groups;
    std::set<const std::vector<Group>*> seen;
    for (const StatesPlace& place : places) {
      if (!place.neighbours || !StatesLinker::can_link(model_, place)) continue;
      if (!seen.insert(place.neighbours.get()).second) continue;
      groups.insert(groups.end(), place.neighbours->begin(), place.neighbours->end());
    }
    return groups;
  }

  /// Has files linked, when all that is in them may be read. @return Of each place, whether all of it needs not be
  /// written.
  std::vector<bool> link(std::span<const StatesPlace> places, std::vector<Group> groups, StatesBeingRead& reading) {
    StatesLinker linker{model_, part_};
    LinkedNames names{files_, directory_, name_, model_.place, linked_files_};
    for (const StatesPlace& place : places) {
      if (StatesLinker::can_link(model_, place)) groups.push_back(place.group);
    }
    std::vector<bool> are_linked;
    read(groups, reading, [&] { are_linked = linker.link(places, names); });
    linked_ = linker.bytes();
    return are_linked;
  }

  /// Writes a place piece by piece: as it is in memory, or through this object's own.
  void write(const StatesPlace& place, StatesBeingRead& reading) {
    const std::string& parameter = model_.parameters[place.parameter].name;
    for_parameter(parameter, [&] {
      auto& components = components_of(parameter, place.components.size());
      bool is_all_on_host = true;
      for (std::size_t c = 0; c < components.size(); ++c) {
        const auto& [tier, extent, offset, width, on_host] = place.components[c];
        is_all_on_host = is_all_on_host && on_host;
        if (!on_host) continue;
        const std::size_t most = width.elements_in(DataWriter::extent_bytes);
        for_each_piece(place, most, [&](std::size_t done, std::size_t elements) {
          const std::byte* const bytes = on_host + offset + width.of(done);
          read({&place.group, 1}, reading,
               [&] { data_.append(place.range.first + done, elements, width, bytes, components[c]); });
        });
      }
      if (is_all_on_host) return;
      for_each_piece(place, memory_.elements(), [&](std::size_t done, std::size_t elements) {
        read({&place.group, 1}, reading, [&] { write_through_memory(place, done, elements, components); });
      });
    });
  }

  /// Writes those components of a piece that the host cannot read as they are.
  void write_through_memory(const StatesPlace& place, std::size_t done, std::size_t elements,
                            std::vector<std::vector<StoredExtent>>& components) {
    const std::size_t room = round_up(elements, PieceMemory::unit);
    std::vector<std::span<std::byte>> memory{std::as_writable_bytes(memory_.master(room))};
    if (model_.parameters[place.parameter].is_split) {
      memory.push_back(memory[0].subspan(room * sizeof(bfloat16)));
      memory[0] = memory[0].first(room * sizeof(bfloat16));
    }
    for (const std::span<std::byte> states : memory_.states(room)) memory.push_back(states);
    std::vector<std::shared_ptr<std::byte>> scales(components.size());
    std::vector<const std::byte*> data(components.size());
    std::vector<Completion> ends(components.size());
    for (std::size_t c = 0; c < components.size(); ++c) {
      const auto& [tier, extent, offset, width, on_host] = place.components[c];
      if (on_host) continue;
      const std::size_t begin = offset + width.of(done);
      const std::size_t before = width.elements == 1 ? 0 : begin % tier.alignment();
      const std::size_t bytes = round_up(before + width.of(elements), tier.alignment());
      std::byte* to = memory[c].data();
      if (width.elements > 1) {  // they begin at no transfer's boundary, and are few
        scales[c] = transfer_memory(Bytes{bytes});
        to = scales[c].get();
      }
      ends[c] = tier.read(extent, begin - before, to, bytes);
      data[c] = to + before;
    }
    for (const Completion& end : ends) end.wait_until(std::chrono::steady_clock::time_point::max());
    for (std::size_t c = 0; c < components.size(); ++c) {
      if (!data[c]) continue;
      ends[c].wait();
      data_.append(place.range.first + done, elements, place.components[c].width, data[c], components[c]);
    }
  }

  /// Appends what is in the host's memory.
  template <class T>
  void append(std::uint64_t first, std::span<const T> values, std::vector<StoredExtent>& extents) {
    data_.append(first, values.size(), {sizeof(T)}, std::as_bytes(values).data(), extents);
  }

  /// @throws CheckpointError if the engine has ended.
  template <class F>
  void read(std::span<const Group> groups, StatesBeingRead& reading, F read) {
    if (!reading.read(groups, read)) {
      throw_checkpoint_error("the engine has ended before its states were saved",
                             directory_.data_of(name_, model_.place));
    }
  }

  /// Calls `f(done, elements)` for pieces of a place.
  template <class F>
  static void for_each_piece(const StatesPlace& place, std::size_t most, F f) {
    for (std::size_t done = 0; done < place.range.elements; done += most) {
      f(done, std::min<std::size_t>(most, place.range.elements - done));
    }
  }

  std::vector<std::vector<StoredExtent>>& components_of(std::string_view parameter, std::size_t count) {
    if (part_.pieces.empty() || part_.pieces.back().parameter != parameter) {
      part_.pieces.push_back({std::string{parameter}, {}});
      part_.pieces.back().components.resize(count);
    }
    return part_.pieces.back().components;
  }

  /// Master weights that the engine keeps in halves.
  void write_halves(const StatesPiece& piece, std::vector<std::vector<StoredExtent>>& components) {
    std::vector<bfloat16> upper(std::min(most_at_once, piece.master.size()));
    std::vector<std::uint16_t> lower(upper.size());
    for (std::size_t done = 0; done < piece.master.size(); done += most_at_once) {
      const std::size_t count = std::min(most_at_once, piece.master.size() - done);
      split(piece.master.subspan(done, count), upper.data(), lower.data());
      append(piece.first + done, std::span<const bfloat16>{upper}.first(count), components[0]);
      append(piece.first + done, std::span<const std::uint16_t>{lower}.first(count), components[1]);
    }
  }

  /// Values of 16 bits, which were widened.
  void write_narrow(const StatesPiece& piece, std::vector<StoredExtent>& extents) {
    std::vector<std::byte> narrow(std::min(most_at_once, piece.master.size()) * element_bytes(piece.type));
    for (std::size_t done = 0; done < piece.master.size(); done += most_at_once) {
      const std::size_t count = std::min(most_at_once, piece.master.size() - done);
      from_float(piece.master.data() + done, piece.type, narrow.data(), count);
      data_.append(piece.first + done, count, {element_bytes(piece.type)}, narrow.data(), extents);
    }
  }

  CheckpointFiles& files_;
  const CheckpointDirectory& directory_;
  CheckpointName name_;
  const EngineDescription& model_;
  PieceMemory memory_;
  DataWriter data_;
  Part part_{};
  std::vector<std::string> linked_files_;
  std::size_t written_ = 0;
  std::size_t linked_ = 0;
};

}  // namespace zerospan::inline v0::detail
