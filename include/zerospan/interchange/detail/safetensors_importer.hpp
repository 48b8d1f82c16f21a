/// @file
/// SafetensorsImporter: fills what an engine's ranks hold from a safetensors model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/interchange/detail/interchange_outcome.hpp>
#include <zerospan/interchange/detail/safetensors_region.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_options.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/tier/file_backed_extents.hpp>

namespace zerospan::inline v0::detail {

/// Imports one model. First every rank looks whether it is the engine's; when all have found it so, each reads the
/// ranges that it holds, but for those that are to rest in the files.
class SafetensorsImporter {
 public:
  SafetensorsImporter(Engine& engine, const std::string& path, const SafetensorsImportOptions& options)
      : engine_{engine},
        path_{path},
        options_{options},
        model_{engine.describe()},
        ranks_{engine, model_.place, model_.places} {}

  ImportedSafetensors import() {
    ranks_.together([&] {
      source_.emplace(path_);
      match();
      if (options_.frozen == FrozenValues::left_in_files) find_resting();
    });
    leave_in_files();
    ranks_.edit_states(model_, {.content = WriteContent::undefined, .buffer = options_.buffer},
                       "; the model is imported in part", [&](std::size_t parameter, const StatesEdit& edit) {
                         std::optional<SafetensorsRegion>& region = regions_[parameter];
                         if (!region || is_resting_[parameter]) return EditOutcome::unchanged;
                         for_tensor(region->tensor(), [&] { read(*region, edit); });
                         imported_.copied.count += edit.master.size() * element_bytes(edit.type);
                         return EditOutcome::changed;
                       });
    imported_.path = source_->path();
    return std::move(imported_);
  }

 private:
  /// A shard that is to rest in a file.
  struct Resting {
    FrozenPlace place;
    BackedBytes backing;
  };

  /// Compares the engine's model with what there is. @throws FormatError if it is to be the same and is not.
  void match() {
    std::set<std::string_view> wanted;
    for (const ParameterDescription& parameter : model_.parameters) {
      std::optional<SafetensorsRegion>& region = regions_.emplace_back(find(parameter));
      if (region) wanted.insert(source_->tensors().find(region->tensor())->first);
    }
    for (const auto& [name, file] : source_->tensors()) {
      const bool is_known = wanted.contains(name) || reshaped_.contains(name);
      if (is_known || (options_.ignores && options_.ignores(name))) continue;
      if (is_strict()) throw_format_error(file->path(), name, "is of no parameter of the model");
      imported_.extra.push_back(name);
    }
  }

  bool is_strict() const { return options_.match == SafetensorsMatch::strict; }

  /// Where the parameter is taken from, if it is.
  std::optional<SafetensorsRegion> find(const ParameterDescription& parameter) {
    const auto place = options_.place ? options_.place(parameter.name, *source_)
                                      : std::optional{SafetensorsPlace{.tensor = parameter.name}};
    if (!place) {
      imported_.unplaced.push_back(parameter.name);
      return std::nullopt;
    }
    SafetensorsRegion region{*place, parameter.name, parameter.shape};
    const StoredSafetensorsTensor* stored = source_->find(region.tensor());
    if (stored == nullptr) {
      if (is_strict()) {
        throw_format_error(source_->path(), region.tensor(), "is not there, for the parameter " + parameter.name);
      }
      imported_.missing.push_back(parameter.name);
      return std::nullopt;
    }
    const std::string& file = source_->file(region.tensor()).path();
    if (stored->shape != region.shape()) {
      if (is_strict()) {
        throw_format_error(file, region.tensor(),
                           "is " + describe(*stored) + ", and " +
                               describe({region.tensor(), stored->type, region.shape()}) + " for the parameter " +
                               parameter.name);
      }
      reshaped_.insert(region.tensor());
      imported_.reshaped.push_back(parameter.name);
      return std::nullopt;
    }
    if (!element_type(stored->type) && stored->type != SafetensorsType::float64) {
      throw_format_error(file, region.tensor(),
                         "its elements are " + std::string{to_string(stored->type)} +
                             ", which are not read as floats, for the parameter " + parameter.name);
    }
    imported_.taken.push_back(parameter.name);
    return region;
  }

  /// Lists what can stay where it is, and opens the files for that.
  void find_resting() {
    std::map<const SafetensorsFile*, std::shared_ptr<const BackingFile>> opened;
    for (const FrozenPlace& place : engine_.places_of_frozen()) {
      const std::optional<SafetensorsRegion>& region = regions_[place.parameter];
      if (!region || !place.tier.file_backed()) continue;
      const SafetensorsFile& file = source_->file(region->tensor());
      const StoredSafetensorsTensor& stored = file.tensor(region->tensor());
      const ElementType type = model_.parameters[place.parameter].type;
      const std::optional<std::uint64_t> first = region->in_tensor(place.range.first);
      if (!first || element_type(stored.type) != type) continue;
      std::shared_ptr<const BackingFile>& backing = opened[&file];
      if (!backing) backing = for_tensor(region->tensor(), [&] { return file.backing(); });
      const std::size_t width = element_bytes(type);
      resting_.push_back({place, {backing, stored.offset + *first * width, place.range.elements * width}});
    }
  }

  void leave_in_files() {
    for (auto& [place, backing] : resting_) {
      is_resting_[place.parameter] = true;
      imported_.left_in_files.count += backing.bytes;
      place.tier.file_backed()->back(place.extent, place.offset, place.bytes, std::move(backing));
    }
  }

  void read(SafetensorsRegion& region, const StatesEdit& edit) const {
    region.read(edit.first, edit.master, [&](std::uint64_t first, std::span<float> elements) {
      source_->read(region.tensor(), first, elements);
    });
    for (const std::span<std::byte> states : edit.states) std::ranges::fill(states, std::byte{0});
    edit.updates = 0;
  }

  Engine& engine_;
  const std::string& path_;
  const SafetensorsImportOptions& options_;
  EngineDescription model_;
  InterchangeOutcome ranks_;
  std::optional<SafetensorsModel> source_;
  std::vector<std::optional<SafetensorsRegion>> regions_;  ///< Of each parameter, if it is taken.
  std::set<std::string, std::less<>> reshaped_;            ///< Tensors of another shape.
  std::vector<Resting> resting_;
  std::vector<bool> is_resting_ = std::vector<bool>(model_.parameters.size());  ///< Each parameter's shard.
  ImportedSafetensors imported_;
};

}  // namespace zerospan::inline v0::detail
