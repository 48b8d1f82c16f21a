/// @file
/// CheckpointReader: loads what an engine's ranks hold from a checkpoint of any number of ranks.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <xxhash.h>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/checkpoint_directory.hpp>
#include <zerospan/checkpoint/detail/checkpoint_outcome.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/checkpoint/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/tier/linkable_extents.hpp>

namespace zerospan::inline v0::detail {

/// The data of all ranks that have saved, one file open at a time.
class DataReader {
 public:
  DataReader(CheckpointFiles& files, const CheckpointDirectory& directory, const CheckpointName& name,
             CheckpointCheck check)
      : files_{files}, directory_{directory}, name_{name}, check_{check} {}

  /// @param file 0: what the rank has written; from 1 on: what it has linked.
  std::string path_of(std::size_t rank, std::uint64_t file) const {
    return file == 0 ? directory_.data_of(name_, rank) : directory_.linked_of(name_, rank, file);
  }

  CheckpointFiles::Reader& of(std::size_t rank, std::uint64_t file) {
    if (!file_ || rank_ != rank || number_ != file) {
      file_ = files_.open(path_of(rank, file));
      rank_ = rank;
      number_ = file;
      if (!file_) throw_checkpoint_error("the file is missing", path_of(rank, file));
      if (check_ == CheckpointCheck::while_loading) file_->expect_one_reading();
    }
    return *file_;
  }

 private:
  CheckpointFiles& files_;
  const CheckpointDirectory& directory_;
  CheckpointName name_;
  CheckpointCheck check_;
  std::unique_ptr<CheckpointFiles::Reader> file_;
  std::size_t rank_ = 0;
  std::uint64_t number_ = 0;
};

/// The checksum of what comes piece by piece.
class RunningChecksum {
 public:
  RunningChecksum() : state_{XXH3_createState()} {
    if (!state_) throw std::bad_alloc{};
    restart();
  }

  void restart() noexcept { XXH3_64bits_reset(state_.get()); }
  void add(std::span<const std::byte> bytes) noexcept { XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()); }
  std::uint64_t value() const noexcept { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
  };

  std::unique_ptr<XXH3_state_t, Free> state_;
};

/// The bytes of a linked file of which there are checksums, and which of them were looked at.
class LinkedPieces {
 public:
  /// @throws CheckpointError if they are not in order, or not in the file.
  LinkedPieces(LinkedFile file, const std::string& part) : bytes_{file.bytes}, pieces_{std::move(file.pieces)} {
    std::uint64_t end = 0;
    for (const CheckedBytes& piece : pieces_) {
      const bool is_next = piece.offset >= end && piece.offset <= bytes_ && piece.bytes <= bytes_ - piece.offset;
      if (!is_next) throw_checkpoint_error("the pieces of a linked file are out of order", part);
      end = piece.offset + piece.bytes;
    }
    are_checked_.resize(pieces_.size());
  }

  std::uint64_t bytes() const noexcept { return bytes_; }

  /// Whether pieces have all of a range.
  bool have(std::uint64_t offset, std::uint64_t bytes) const {
    std::uint64_t done = offset;
    for (std::size_t i = first(offset); i < pieces_.size() && pieces_[i].offset <= done && done < offset + bytes; ++i) {
      done = pieces_[i].offset + pieces_[i].bytes;
    }
    return done >= offset + bytes;
  }

  /// Calls `f(piece)` for each one in which there is something of a range that pieces have, once for each.
  template <class F>
  void check_each(std::uint64_t offset, std::uint64_t bytes, F f) {
    for (std::size_t i = first(offset); i < pieces_.size() && pieces_[i].offset < offset + bytes; ++i) {
      if (!are_checked_[i]) f(pieces_[i]);
      are_checked_[i] = true;
    }
  }

 private:
  /// The piece that has the byte there, if one has.
  std::size_t first(std::uint64_t offset) const {
    const auto next = std::ranges::upper_bound(pieces_, offset, {}, &CheckedBytes::offset);
    return static_cast<std::size_t>(next - pieces_.begin()) - (next == pieces_.begin() ? 0 : 1);
  }

  std::uint64_t bytes_;  ///< Of the file.
  std::vector<CheckedBytes> pieces_;
  std::vector<bool> are_checked_;
};

/// Loads one checkpoint. First every rank looks at all that it will need of it: manifest, parts, and each extent in
/// which there is something of what it holds, with its checksum. When all ranks have found all of it sound, each reads
/// the ranges that it holds. Extents that it takes whole may have their checksums compared only then
/// (`CheckpointCheck::while_loading`).
class CheckpointReader {
 public:
  CheckpointReader(Engine& engine, CheckpointFiles& files, const std::string& directory, const LoadOptions& options)
      : files_{files},
        options_{options},
        model_{engine.describe()},
        ranks_{engine, model_.place, model_.places},
        directory_{files, directory} {}

  /// The step of the one that `load` would take; a collective.
  std::optional<std::int64_t> find() {
    if (!choose()) return std::nullopt;
    return name_.step;
  }

  LoadedCheckpoint load() {
    if (!choose()) {
      const std::string which = options_.step ? "checkpoint of step " + std::to_string(*options_.step) : "checkpoint";
      throw_checkpoint_error("there is no complete " + which + " in this directory", directory_.path());
    }
    ranks_.together([&] {
      read_manifest();
      match();
      read_parts();
      check_coverage();
      verify();
    });
    sums_.resize(2 + manifest_.states.size());
    DataReader data{files_, directory_, name_, options_.check};
    ranks_.edit_states(model_,
                       {.content = WriteContent::undefined, .progress = manifest_.progress, .buffer = options_.buffer},
                       "; the model is loaded in part", [&](std::size_t parameter, const StatesEdit& edit) {
                         if (!matches_[parameter].taken) return EditOutcome::unchanged;
                         for_parameter(edit.parameter, [&] { read(parameter, edit, data); });
                         return EditOutcome::changed;
                       });
    loaded_.step = manifest_.progress.step;
    loaded_.path = directory_.path_of(name_);
    loaded_.ranks = manifest_.parts.size();
    loaded_.seed = manifest_.seed;
    loaded_.optimizer = manifest_.optimizer;
    loaded_.settings_that_differ = differing_settings();
    return std::move(loaded_);
  }

 private:
  /// A parameter of the model in the checkpoint.
  struct Match {
    const StoredParameter* taken = nullptr;
    bool has_states = false;
  };

  /// An extent that this rank needs something of.
  struct NeededExtent {
    StoredExtent extent;
    std::size_t rank;
  };

  /// Rank 0 looks which checkpoint it is. @return Whether there is one.
  bool choose() {
    const auto found = ranks_.by_first(3, [&] {
      const std::optional<CheckpointName> name =
          options_.step ? directory_.of_step(*options_.step) : directory_.latest();
      if (!name) return std::vector<std::int64_t>{0, 0, 0};
      return std::vector<std::int64_t>{1, name->step, name->copy};
    });
    name_ = {found[1], found[2]};
    return found[0] == 1;
  }

  /// A small file, whole.
  std::string text_of(const std::string& path) const {
    const auto file = files_.open(path);
    if (!file) throw_checkpoint_error("the file is missing", path);
    std::string text(static_cast<std::size_t>(file->size()), '\0');
    file->read(0, std::as_writable_bytes(std::span{text}));
    return text;
  }

  void read_manifest() {
    const std::string path = directory_.manifest_of(name_);
    manifest_ = parse_manifest(text_of(path), path);
  }

  /// Compares the model with what the manifest has. @throws CheckpointError if it is to be the same and is not.
  void match() {
    const std::string path = directory_.manifest_of(name_);
    const bool is_strict = options_.match == CheckpointMatch::strict;
    const bool has_same_states = check_states(path, is_strict);
    std::unordered_map<std::string_view, const StoredParameter*> stored;
    for (const StoredParameter& parameter : manifest_.parameters) {
      if (!stored.emplace(parameter.name, &parameter).second) {
        throw_checkpoint_error("the checkpoint has two parameters of this name", path, parameter.name);
      }
    }
    std::unordered_set<std::string_view> declared;
    for (const ParameterDescription& parameter : model_.parameters) {
      declared.insert(parameter.name);
      matches_.emplace_back();
      const auto found = stored.find(parameter.name);
      if (found == stored.end()) {
        if (is_strict) throw_checkpoint_error("the checkpoint does not have it", path, parameter.name);
        loaded_.missing.push_back(parameter.name);
        continue;
      }
      const StoredParameter& its = *found->second;
      if (its.shape != parameter.shape) {
        if (is_strict) {
          throw_checkpoint_error(
              "its shape is " + in_brackets(parameter.shape) + ", and " + in_brackets(its.shape) + " in the checkpoint",
              path, parameter.name);
        }
        loaded_.reshaped.push_back(parameter.name);
        continue;
      }
      if (is_strict && its.training != parameter.training) {
        const bool is_frozen = parameter.training == Training::frozen;
        throw_checkpoint_error(is_frozen ? "it is declared frozen, and was trained in the checkpoint"
                                         : "it is declared trainable, and was frozen in the checkpoint",
                               path, parameter.name);
      }
      const bool has_states =
          has_same_states && parameter.training == Training::trainable && its.training == Training::trainable;
      matches_.back() = {&its, has_states};
      const bool lacks_states = parameter.training == Training::trainable && !has_states;
      (lacks_states ? loaded_.without_states : loaded_.taken).push_back(parameter.name);
    }
    for (const StoredParameter& parameter : manifest_.parameters) {
      if (declared.contains(parameter.name)) continue;
      if (is_strict) throw_checkpoint_error("the checkpoint has it, and the model has not", path, parameter.name);
      loaded_.extra.push_back(parameter.name);
    }
  }

  /// Whether the optimizer's states are those of the checkpoint's.
  bool check_states(const std::string& path, bool is_strict) const {
    const auto is_same = [](const StoredArray& stored, const StateArray& named) {
      return stored.name == named.name && stored.type == named.type && stored.form == named.form;
    };
    const bool are_same =
        manifest_.optimizer == model_.optimizer && std::ranges::equal(manifest_.states, model_.states, is_same);
    if (are_same || !is_strict) return are_same;
    const auto described = [](const std::string& optimizer, const auto& arrays) {
      std::string text = optimizer + " (";
      for (const auto& array : arrays) text += (&array == &arrays.front() ? "" : ", ") + std::string{array.name};
      return text + ")";
    };
    throw_checkpoint_error("it has the states of another optimizer: of " +
                               described(manifest_.optimizer, manifest_.states) + ", not of " +
                               described(model_.optimizer, model_.states),
                           path);
  }

  std::vector<SettingDifference> differing_settings() const {
    if (manifest_.optimizer != model_.optimizer) return {};
    const auto value_in = [](const auto& settings, const std::string& name) {
      const auto found = std::ranges::find(settings, name, &std::pair<std::string, double>::first);
      return found == settings.end() ? std::nullopt : std::optional{found->second};
    };
    std::vector<SettingDifference> differences;
    for (const auto& [name, now] : model_.settings) {
      const std::optional<double> saved = value_in(manifest_.settings, name);
      // A manifest has no infinities.
      const bool are_boundless = saved && !std::isfinite(*saved) && !std::isfinite(now);
      if (saved != now && !are_boundless) differences.push_back({name, saved, now});
    }
    for (const auto& [name, saved] : manifest_.settings) {
      if (!value_in(model_.settings, name)) differences.push_back({name, saved, std::nullopt});
    }
    return differences;
  }

  static std::string in_brackets(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.rank(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }

  /// The width of an element of a component of a parameter in the checkpoint.
  ElementWidth width_of(const StoredParameter& parameter, std::size_t component) const {
    const std::size_t of_values = components_of_values(parameter);
    if (component >= of_values) {
      const StoredArray& array = manifest_.states[component - of_values];
      return state_width(array.type, array.form);
    }
    const bool is_narrow = parameter.training == Training::frozen || parameter.is_split;
    return {is_narrow ? element_bytes(parameter.type) : sizeof(float)};
  }

  /// Those before the states'.
  static std::size_t components_of_values(const StoredParameter& parameter) { return parameter.is_split ? 2 : 1; }

  std::size_t components_of(const Match& match) const {
    return components_of_values(*match.taken) + (match.has_states ? manifest_.states.size() : 0);
  }

  /// Lists what this rank needs of each rank's data.
  void read_parts() {
    needed_.resize(model_.parameters.size());
    std::unordered_map<std::string_view, std::size_t> index;
    for (std::size_t p = 0; p < model_.parameters.size(); ++p) {
      if (!matches_[p].taken) continue;
      needed_[p].resize(components_of(matches_[p]));
      index.emplace(model_.parameters[p].name, p);
    }
    DataReader data{files_, directory_, name_, options_.check};
    for (std::size_t rank = 0; rank < manifest_.parts.size(); ++rank) {
      const std::string path = directory_.part_of(name_, rank);
      const std::string text = text_of(path);
      if (text.size() != manifest_.parts[rank].bytes || checksum(text) != manifest_.parts[rank].checksum) {
        throw_checkpoint_error("the file is damaged, or of another checkpoint: it has " + std::to_string(text.size()) +
                                   " bytes, and is to have " + std::to_string(manifest_.parts[rank].bytes) +
                                   " with another checksum",
                               path);
      }
      Part part = parse_part(text, path);
      std::vector<LinkedPieces>& linked = linked_.emplace_back();
      for (LinkedFile& file : part.files) linked.emplace_back(std::move(file), path);
      std::vector<bool> is_needed(1 + linked.size());
      is_needed[0] = !part.host.empty();
      for (const StoredPieces& pieces : part.pieces) {
        const auto found = index.find(pieces.parameter);
        if (found == index.end()) continue;
        list_pieces(found->second, pieces, part.bytes, rank, is_needed);
      }
      for (std::size_t file = 0; file < is_needed.size(); ++file) {
        if (!is_needed[file]) continue;
        const std::uint64_t size = data.of(rank, file).size();
        const std::uint64_t expected = file == 0 ? part.bytes : linked[file - 1].bytes();
        if (size != expected) {
          throw_checkpoint_error("the file is truncated: it has " + std::to_string(size) + " bytes, and is to have " +
                                     std::to_string(expected),
                                 data.path_of(rank, file));
        }
      }
      read_host_bytes(part, rank, data);
    }
  }

  /// @param is_needed Of each file of the rank: set if this rank needs anything of it.
  void list_pieces(std::size_t p, const StoredPieces& pieces, std::uint64_t data_bytes, std::size_t rank,
                   std::vector<bool>& is_needed) {
    const ParameterDescription& parameter = model_.parameters[p];
    const std::string path = directory_.part_of(name_, rank);
    if (pieces.components.size() < needed_[p].size())
      throw_checkpoint_error("states are missing", path, parameter.name);
    for (std::size_t c = 0; c < needed_[p].size(); ++c) {
      const ElementWidth width = width_of(*matches_[p].taken, c);
      for (const StoredExtent& extent : pieces.components[c]) {
        const std::uint64_t all = parameter.shape.elements();
        if (extent.file > linked_[rank].size()) {
          throw_checkpoint_error("an extent is in a file that is not there", path, parameter.name);
        }
        const std::uint64_t bytes = extent.file == 0 ? data_bytes : linked_[rank][extent.file - 1].bytes();
        const bool is_within = extent.first <= all && extent.elements <= all - extent.first && extent.elements > 0 &&
                               width.of(extent.elements) <= bytes && extent.offset <= bytes - width.of(extent.elements);
        if (!is_within) throw_checkpoint_error("an extent ends beyond its parameter or its file", path, parameter.name);
        const std::uint64_t end = extent.first + extent.elements;
        if (extent.first % width.elements != 0 || (end % width.elements != 0 && end != all)) {
          throw_checkpoint_error("an extent has a part of what shares a scale", path, parameter.name);
        }
        if (extent.file > 0 && !linked_[rank][extent.file - 1].have(extent.offset, width.of(extent.elements))) {
          throw_checkpoint_error("an extent has no checksum", path, parameter.name);
        }
        const bool overlaps =
            extent.first < parameter.first + parameter.elements && parameter.first < extent.first + extent.elements;
        if (!overlaps) continue;
        needed_[p][c].push_back({extent, rank});
        is_needed[extent.file] = true;
      }
    }
  }

  void read_host_bytes(const Part& part, std::size_t rank, DataReader& data) {
    std::vector<std::byte>& bytes = loaded_.host_bytes.emplace_back();
    for (const StoredExtent& extent : part.host) {
      const bool is_next = extent.first == bytes.size() && extent.file == 0 && extent.elements <= part.bytes &&
                           extent.offset <= part.bytes - extent.elements;
      if (!is_next) throw_checkpoint_error("the host's bytes are out of order", directory_.part_of(name_, rank));
      bytes.resize(bytes.size() + static_cast<std::size_t>(extent.elements));
      const std::span read = std::span{bytes}.subspan(static_cast<std::size_t>(extent.first));
      data.of(rank, 0).read(extent.offset, read);
      if (checksum(read) != extent.checksum) {
        refuse_bits("the host's bytes", extent.offset, extent.elements, data.path_of(rank, 0), {});
      }
    }
  }

  [[noreturn]] static void refuse_bits(const std::string& what, std::uint64_t offset, std::uint64_t bytes,
                                       const std::string& path, const std::string& parameter) {
    throw_checkpoint_error(what + " at offset " + std::to_string(offset) + ", " + std::to_string(bytes) +
                               " bytes, are not those that were saved: their checksum is another",
                           path, parameter);
  }

  /// Sorts what is needed. @throws CheckpointError unless each element is there once.
  void check_coverage() {
    for (std::size_t p = 0; p < needed_.size(); ++p) {
      const ParameterDescription& parameter = model_.parameters[p];
      for (std::vector<NeededExtent>& extents : needed_[p]) {
        if (parameter.elements == 0) continue;
        std::ranges::sort(extents, {}, [](const NeededExtent& needed) { return needed.extent.first; });
        bool is_whole = !extents.empty() && extents.front().extent.first <= parameter.first;
        std::uint64_t next = is_whole ? extents.front().extent.first : 0;
        for (const NeededExtent& needed : extents) {
          is_whole = is_whole && needed.extent.first == next;
          next = needed.extent.first + needed.extent.elements;
        }
        if (!is_whole || next < parameter.first + parameter.elements) {
          throw_checkpoint_error("the checkpoint has not each of its elements once", directory_.path_of(name_),
                                 parameter.name);
        }
      }
    }
  }

  /// Whether an extent's checksum is compared when it is taken: all of it is, one piece after the other.
  bool is_checked_while_loading(std::size_t p, const StoredExtent& extent) const {
    const ParameterDescription& parameter = model_.parameters[p];
    return options_.check == CheckpointCheck::while_loading && extent.file == 0 && extent.first >= parameter.first &&
           extent.first + extent.elements <= parameter.first + parameter.elements;
  }

  /// @throws CheckpointError if a component of a parameter has another checksum.
  void check(const RunningChecksum& sum, const CheckedBytes& expected, std::size_t p, std::size_t c,
             const std::string& path) const {
    if (sum.value() == expected.checksum) return;
    const std::size_t of_values = components_of_values(*matches_[p].taken);
    refuse_bits(c < of_values ? "its values" : "its " + manifest_.states[c - of_values].name, expected.offset,
                expected.bytes, path, model_.parameters[p].name);
  }

  /// Reads every extent that is needed, whole; of linked files, every piece.
  void verify() {
    DataReader data{files_, directory_, name_, options_.check};
    const Bytes size{std::clamp(options_.buffer.count, std::size_t{4096}, std::size_t{1} << 20)};
    const std::shared_ptr<std::byte> memory = transfer_memory(size);
    RunningChecksum sum;
    const auto compare = [&](std::size_t p, std::size_t c, std::size_t rank, std::uint64_t file,
                             const CheckedBytes& expected) {
      sum.restart();
      for_parameter(model_.parameters[p].name, [&] {
        for (std::uint64_t done = 0; done < expected.bytes;) {
          const std::span piece{memory.get(), std::min<std::uint64_t>(size.count, expected.bytes - done)};
          data.of(rank, file).read(expected.offset + done, piece);
          sum.add(piece);
          done += piece.size();
        }
      });
      check(sum, expected, p, c, data.path_of(rank, file));
    };
    for (std::size_t p = 0; p < needed_.size(); ++p) {
      for (std::size_t c = 0; c < needed_[p].size(); ++c) {
        const ElementWidth width = width_of(*matches_[p].taken, c);
        for (const NeededExtent& needed : needed_[p][c]) {
          const StoredExtent& extent = needed.extent;
          const std::size_t rank = needed.rank;
          const CheckedBytes all{extent.offset, width.of(extent.elements), extent.checksum};
          if (is_checked_while_loading(p, extent)) continue;
          if (extent.file == 0) {
            compare(p, c, rank, 0, all);
          } else {
            linked_[rank][extent.file - 1].check_each(
                all.offset, all.bytes, [&](const CheckedBytes& piece) { compare(p, c, rank, extent.file, piece); });
          }
        }
      }
    }
  }

  /// Fills a piece of a parameter.
  void read(std::size_t p, const StatesEdit& edit, DataReader& data) {
    const Match& match = matches_[p];
    edit.updates = match.has_states ? match.taken->updates : 0;
    const std::uint64_t count = edit.master.size();
    const std::span<std::byte> values = std::as_writable_bytes(edit.master);
    if (const std::size_t width = width_of(*match.taken, 0).bytes; width == sizeof(float)) {
      read_range(p, 0, edit.first, count, values, data);
    } else if (match.taken->is_split) {
      read_halves(p, edit, data);
    } else {  // values of 16 bits: into the upper half of their place, then widened from below
      const std::span<std::byte> narrow = values.last(count * width);
      read_range(p, 0, edit.first, count, narrow, data);
      std::array<std::byte, 2 * block_elements> block;
      for (std::size_t done = 0; done < count; done += block_elements) {
        const std::size_t here = std::min<std::size_t>(block_elements, count - done);
        std::memcpy(block.data(), narrow.data() + done * width, here * width);
        to_float(match.taken->type, block.data(), edit.master.data() + done, here);
      }
    }
    for (std::size_t s = 0; s < edit.states.size(); ++s) {
      if (match.has_states) {
        read_range(p, components_of_values(*match.taken) + s, edit.first, count, edit.states[s], data);
      } else {
        std::ranges::fill(edit.states[s], std::byte{0});
      }
    }
  }

  /// Reads both halves of master weights, the upper ones first, into their place, and joins them there: no lower half
  /// is written over before it was read.
  void read_halves(std::size_t p, const StatesEdit& edit, DataReader& data) {
    const std::size_t count = edit.master.size();
    const std::span<std::byte> values = std::as_writable_bytes(edit.master);
    read_range(p, 0, edit.first, count, values.first(count * sizeof(bfloat16)), data);
    read_range(p, 1, edit.first, count, values.last(count * sizeof(bfloat16)), data);
    std::vector<bfloat16> upper(count);
    std::memcpy(upper.data(), values.data(), count * sizeof(bfloat16));
    for (std::size_t i = 0; i < count; ++i) {
      std::uint16_t lower = 0;
      std::memcpy(&lower, values.data() + (count + i) * sizeof lower, sizeof lower);
      edit.master[i] = static_cast<float>(SplitFloat{upper[i], lower});
    }
  }

  /// Reads so many elements of a component from `first` on. What is read of an extent goes on where the last piece of
  /// it ended.
  void read_range(std::size_t p, std::size_t c, std::uint64_t first, std::uint64_t elements, std::span<std::byte> to,
                  DataReader& data) {
    const ElementWidth width = width_of(*matches_[p].taken, c);
    const std::vector<NeededExtent>& extents = needed_[p][c];
    const std::uint64_t end = first + elements;
    auto next = std::ranges::upper_bound(extents, first, {}, [](const NeededExtent& n) { return n.extent.first; });
    for (--next; first < end; ++next) {
      const StoredExtent& extent = next->extent;
      const std::uint64_t last = extent.first + extent.elements;
      const std::uint64_t count = std::min(end, last) - first;
      const std::span piece = to.first(width.of(count));
      data.of(next->rank, extent.file).read(extent.offset + width.of(first - extent.first), piece);
      if (is_checked_while_loading(p, extent)) {
        RunningChecksum& sum = sums_[c];
        if (first == extent.first) sum.restart();
        sum.add(piece);
        if (first + count == last) {
          check(sum, {extent.offset, width.of(extent.elements), extent.checksum}, p, c, data.path_of(next->rank, 0));
        }
      }
      to = to.subspan(piece.size());
      first += count;
    }
  }

  CheckpointFiles& files_;
  LoadOptions options_;
  EngineDescription model_;
  CheckpointOutcome ranks_;
  CheckpointDirectory directory_;
  CheckpointName name_{};
  Manifest manifest_{};
  LoadedCheckpoint loaded_{};
  std::vector<Match> matches_;                                  ///< Of each parameter.
  std::vector<std::vector<LinkedPieces>> linked_;               ///< Of each rank that saved: of its linked files.
  std::vector<std::vector<std::vector<NeededExtent>>> needed_;  ///< Of each parameter and component, in order.
  std::vector<RunningChecksum> sums_;                           ///< Of the extent of each component that is taken now.
};

}  // namespace zerospan::inline v0::detail
