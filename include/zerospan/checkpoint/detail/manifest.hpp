/// @file
/// What a checkpoint says of itself, as JSON: the manifest of all of it, and the part of one rank. Needs nlohmann-json
/// and xxHash.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <xxhash.h>
#include <nlohmann/json.hpp>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/tier/linkable_extents.hpp>

namespace zerospan::inline v0::detail {

/// XXH3, 64 bits.
inline std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}
inline std::uint64_t checksum(std::string_view text) noexcept { return XXH3_64bits(text.data(), text.size()); }

/// One array of states, as a checkpoint has it.
struct StoredArray {
  std::string name;
  ElementType type;
  StateForm form;
};

struct StoredParameter {
  std::string name;
  Shape shape;
  ElementType type;
  Training training;
  bool is_split;  ///< Its master weights are stored in two halves, which are two components.
  std::int64_t updates;
};

/// The part of one rank: a text that lists what is in its data.
struct StoredPart {
  std::uint64_t bytes;
  std::uint64_t checksum;
};

struct Manifest {
  /// Of the format. One that is read has this version or an older one.
  static constexpr std::int64_t version = 3;

  TrainingProgress progress;
  std::uint64_t seed;
  std::string optimizer;
  std::vector<std::pair<std::string, double>> settings;
  std::vector<StoredArray> states;
  std::vector<StoredParameter> parameters;
  std::vector<StoredPart> parts;  ///< Of each rank that has saved.
};

/// A run of a component, in the data of one rank.
struct StoredExtent {
  std::uint64_t first;  ///< Logical element; of a host's bytes: byte.
  std::uint64_t elements;
  std::uint64_t offset;    ///< In the file.
  std::uint64_t checksum;  ///< In a linked file: 0; its pieces have checksums.
  std::uint64_t file = 0;  ///< The rank's data; from 1 on, the linked file of that number.
};

/// What one rank has of one parameter: master weights (both of their halves, the upper one first, if they are split;
/// values, if it was declared frozen), and each array of states.
struct StoredPieces {
  std::string parameter;
  std::vector<std::vector<StoredExtent>> components;
};

struct Part {
  std::uint64_t bytes = 0;  ///< Of the data.
  std::vector<StoredPieces> pieces;
  std::vector<StoredExtent> host;  ///< The host's own bytes.
  std::vector<LinkedFile> files{};  ///< Those that were linked.
};

/// Reads values of JSON, and refuses what is of another type, or is not there.
class JsonReader {
 public:
  using Json = nlohmann::json;

  /// @param file Named in errors; outlives it.
  explicit JsonReader(const std::string& file) : file_{file} {}

  [[noreturn]] void refuse(const std::string& what) const { throw_checkpoint_error(what, file_); }

  /// No deeper than a checkpoint's text is: whoever writes JSON again needs stack for each level.
  Json parse(std::string_view text) const {
    constexpr int most = 16;
    const auto check = [&](int depth, Json::parse_event_t, const Json&) {
      if (depth > most) refuse("its JSON is nested deeper than " + std::to_string(most) + " levels");
      return true;
    };
    Json json = Json::parse(text, check, false);
    if (!json.is_object()) refuse("this is no JSON object: the file is damaged");
    return json;
  }

  const Json& member(const Json& json, const char* name) const {
    const auto found = json.is_object() ? json.find(name) : json.end();
    if (!json.is_object() || found == json.end()) refuse(std::string{"it has no \""} + name + "\"");
    return *found;
  }
  const Json& array(const Json& json, const char* name) const {
    const Json& found = member(json, name);
    if (!found.is_array()) refuse(std::string{"\""} + name + "\" is no array");
    return found;
  }
  std::uint64_t number(const Json& json, const char* name) const { return number_of(member(json, name), name); }
  std::uint64_t number_of(const Json& json, const char* name) const {
    if (!json.is_number_unsigned()) refuse(std::string{"\""} + name + "\" is no whole number from 0 on");
    return json.get<std::uint64_t>();
  }
  std::int64_t count(const Json& json, const char* name) const {
    const std::uint64_t value = number(json, name);
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse(std::string{"\""} + name + "\" is no count");
    }
    return static_cast<std::int64_t>(value);
  }
  bool truth(const Json& json, const char* name) const {
    const Json& found = member(json, name);
    if (!found.is_boolean()) refuse(std::string{"\""} + name + "\" is neither true nor false");
    return found.get<bool>();
  }
  std::string text(const Json& json, const char* name) const {
    const Json& found = member(json, name);
    if (!found.is_string()) refuse(std::string{"\""} + name + "\" is no text");
    return found.get<std::string>();
  }
  std::uint64_t checksum_of(const Json& json) const {
    const std::string digits = json.is_string() ? json.get<std::string>() : std::string{};
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 16 || error != std::errc{} || end != digits.data() + digits.size()) {
      refuse("a checksum has 16 hexadecimal digits");
    }
    return value;
  }
  ElementType type(const Json& json) const {
    const std::string name = text(json, "type");
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
      if (name == to_string(type)) return type;
    }
    refuse("there is no element type " + name);
  }

  /// Values, where nothing is said of it, as in version 2.
  StateForm form(const Json& json) const {
    if (!json.contains("form")) return StateForm::values;
    const std::string name = text(json, "form");
    for (const StateForm form : {StateForm::values, StateForm::codes, StateForm::scales}) {
      if (name == to_string(form)) return form;
    }
    refuse("states are no " + name);
  }

 private:
  const std::string& file_;
};

inline std::string in_hexadecimal(std::uint64_t value) {
  std::string digits(16, '0');
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, value >>= 4)
    *digit = "0123456789abcdef"[value & 15];
  return digits;
}

/// @throws CheckpointError if a name is not UTF-8.
inline std::string to_text(const nlohmann::json& json, const std::string& file) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception& error) {
    throw_checkpoint_error(error.what(), file);
  }
}

/// A manifest has a checksum of all the rest of it.
inline std::string manifest_text(const Manifest& manifest, const std::string& file) {
  using Json = nlohmann::json;
  Json json{{"format", "zerospan checkpoint"}, {"version", Manifest::version},
            {"step", manifest.progress.step},  {"skipped_in_a_row", manifest.progress.skipped_in_a_row},
            {"loss_scale", nullptr},           {"seed", manifest.seed},
            {"ranks", manifest.parts.size()}};
  if (const auto& scale = manifest.progress.loss_scale) {
    json["loss_scale"] = {{"value", scale->value}, {"good_steps", scale->good_steps}};
  }
  Json settings = Json::object();
  for (const auto& [name, value] : manifest.settings) settings[name] = value;
  Json states = Json::array();
  for (const StoredArray& array : manifest.states)
    states.push_back({{"name", array.name}, {"type", to_string(array.type)}, {"form", to_string(array.form)}});
  json["optimizer"] = {{"name", manifest.optimizer}, {"settings", settings}, {"states", states}};
  json["parameters"] = Json::array();
  for (const StoredParameter& parameter : manifest.parameters) {
    json["parameters"].push_back(
        {{"name", parameter.name},
         {"shape", std::vector<std::size_t>(parameter.shape.extents().begin(), parameter.shape.extents().end())},
         {"type", to_string(parameter.type)},
         {"frozen", parameter.training == Training::frozen},
         {"split", parameter.is_split},
         {"updates", parameter.updates}});
  }
  json["parts"] = Json::array();
  for (const StoredPart& part : manifest.parts) {
    json["parts"].push_back({{"bytes", part.bytes}, {"checksum", in_hexadecimal(part.checksum)}});
  }
  json["checksum"] = in_hexadecimal(checksum(to_text(json, file)));
  return json.dump(1) + "\n";
}

/// @param file Where the text is from. @throws CheckpointError of what is no manifest, damaged, or of a newer version.
inline Manifest parse_manifest(std::string_view text, const std::string& file) {
  const JsonReader reader{file};
  nlohmann::json json = reader.parse(text);
  if (reader.text(json, "format") != "zerospan checkpoint") reader.refuse("this is no checkpoint of zerospan");
  const std::int64_t version = reader.count(json, "version");
  if (version > Manifest::version) {
    reader.refuse("its format has version " + std::to_string(version) + ", this zerospan reads versions up to " +
                  std::to_string(Manifest::version));
  }
  const std::uint64_t expected = reader.checksum_of(reader.member(json, "checksum"));
  json.erase("checksum");
  if (checksum(to_text(json, file)) != expected) reader.refuse("the file is damaged: its checksum does not fit");

  Manifest manifest{};
  manifest.progress.step = reader.count(json, "step");
  manifest.progress.skipped_in_a_row = reader.count(json, "skipped_in_a_row");
  if (const auto& scale = reader.member(json, "loss_scale"); !scale.is_null()) {
    const auto& value = reader.member(scale, "value");
    int exponent = 0;
    if (!value.is_number() || !(value.get<float>() > 0) || std::frexp(value.get<float>(), &exponent) != 0.5F) {
      reader.refuse("the loss scale is no power of two");
    }
    manifest.progress.loss_scale = LossScaleState{value.get<float>(), reader.number(scale, "good_steps")};
  }
  manifest.seed = reader.number(json, "seed");
  const auto& optimizer = reader.member(json, "optimizer");
  manifest.optimizer = reader.text(optimizer, "name");
  const auto& settings = reader.member(optimizer, "settings");
  if (!settings.is_object()) reader.refuse("\"settings\" is no object");
  for (const auto& [name, value] : settings.items()) {
    manifest.settings.emplace_back(name, value.is_number() ? value.get<double>() : std::nan(""));
  }
  for (const auto& array : reader.array(optimizer, "states")) {
    manifest.states.push_back({reader.text(array, "name"), reader.type(array), reader.form(array)});
  }
  for (const auto& parameter : reader.array(json, "parameters")) {
    const std::string name = reader.text(parameter, "name");
    std::vector<std::size_t> extents;
    for (const auto& extent : reader.array(parameter, "shape")) extents.push_back(reader.number_of(extent, "shape"));
    const bool is_frozen = reader.truth(parameter, "frozen");
    const bool is_split = parameter.contains("split") && reader.truth(parameter, "split");  // not in version 2
    const ElementType type = reader.type(parameter);
    if (is_split && (is_frozen || type != ElementType::bfloat16)) {
      throw_checkpoint_error("its master weights cannot be split: it is frozen, or not of bfloat16", file, name);
    }
    try {
      manifest.parameters.push_back({name, Shape{extents}, type, is_frozen ? Training::frozen : Training::trainable,
                                     is_split, reader.count(parameter, "updates")});
    } catch (const ConfigurationError& error) {
      throw_checkpoint_error(error.what(), file, name);
    }
  }
  for (const auto& part : reader.array(json, "parts")) {
    manifest.parts.push_back({reader.number(part, "bytes"), reader.checksum_of(reader.member(part, "checksum"))});
  }
  if (manifest.parts.empty() || manifest.parts.size() != reader.number(json, "ranks")) {
    reader.refuse("\"parts\" has not one for each of the ranks");
  }
  return manifest;
}

inline std::string part_text(const Part& part, const std::string& file) {
  using Json = nlohmann::json;
  const auto listed = [](const std::vector<StoredExtent>& extents) {
    Json list = Json::array();
    for (const StoredExtent& extent : extents) {
      list.push_back({extent.first, extent.elements, extent.offset, in_hexadecimal(extent.checksum)});
      if (extent.file > 0) list.back().push_back(extent.file);
    }
    return list;
  };
  Json json{{"bytes", part.bytes}, {"host", listed(part.host)}, {"parameters", Json::array()}};
  for (const StoredPieces& pieces : part.pieces) {
    Json components = Json::array();
    for (const auto& extents : pieces.components) components.push_back(listed(extents));
    json["parameters"].push_back({{"name", pieces.parameter}, {"components", std::move(components)}});
  }
  json["files"] = Json::array();
  for (const LinkedFile& linked : part.files) {
    Json pieces = Json::array();
    for (const CheckedBytes& piece : linked.pieces) {
      pieces.push_back({piece.offset, piece.bytes, in_hexadecimal(piece.checksum)});
    }
    json["files"].push_back({{"bytes", linked.bytes}, {"pieces", std::move(pieces)}});
  }
  return to_text(json, file) + "\n";
}

inline Part parse_part(std::string_view text, const std::string& file) {
  const JsonReader reader{file};
  const nlohmann::json json = reader.parse(text);
  const auto extents_of = [&](const nlohmann::json& list) {
    std::vector<StoredExtent> extents;
    if (!list.is_array()) reader.refuse("the extents are no array");
    for (const auto& extent : list) {
      if (!extent.is_array() || extent.size() < 4 || extent.size() > 5) {
        reader.refuse("an extent is no array of four or five");
      }
      extents.push_back({reader.number_of(extent[0], "first"), reader.number_of(extent[1], "elements"),
                         reader.number_of(extent[2], "offset"), reader.checksum_of(extent[3]),
                         extent.size() == 5 ? reader.number_of(extent[4], "file") : 0});
    }
    return extents;
  };
  Part part{reader.number(json, "bytes"), {}, extents_of(reader.array(json, "host"))};
  for (const auto& pieces : reader.array(json, "parameters")) {
    part.pieces.push_back({reader.text(pieces, "name"), {}});
    for (const auto& extents : reader.array(pieces, "components")) {
      part.pieces.back().components.push_back(extents_of(extents));
    }
  }
  if (!json.contains("files")) return part;  // of version 1
  for (const auto& linked : reader.array(json, "files")) {
    part.files.push_back({reader.number(linked, "bytes"), {}});
    for (const auto& piece : reader.array(linked, "pieces")) {
      if (!piece.is_array() || piece.size() != 3) reader.refuse("a piece is no array of three");
      part.files.back().pieces.push_back({reader.number_of(piece[0], "offset"), reader.number_of(piece[1], "bytes"),
                                          reader.checksum_of(piece[2])});
    }
  }
  return part;
}

}  // namespace zerospan::inline v0::detail
