/// @file
/// The header of a safetensors file, read and checked. Format: "Safetensors", github.com/huggingface/safetensors.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/safetensors_json.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>

namespace zerospan::inline v0::detail {

/// Bytes before the header: its length, the lowest byte first.
inline constexpr std::size_t safetensors_prefix = 8;

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsHeader {
  std::vector<StoredSafetensorsTensor> tensors;  ///< In the order of their data; offsets are those in the file.
  std::vector<std::size_t> by_name;              ///< Their indices, by name.
  SafetensorsMetadata metadata;

  const StoredSafetensorsTensor* find(std::string_view name) const {
    const auto named = [&](std::size_t i) -> std::string_view { return tensors[i].name; };
    const auto found = std::ranges::lower_bound(by_name, name, {}, named);
    return found != by_name.end() && named(*found) == name ? &tensors[*found] : nullptr;
  }
};

/// Reads the text. An object of names; each names an object of "dtype", "shape" and "data_offsets", in any order, but
/// "__metadata__", which names an object of strings. Whatever else there may be is refused: what it means for the
/// tensor's bytes is not known.
class SafetensorsHeaderReader final : public JsonParts {
 public:
  /// What is said of a tensor; its range of bytes begins at the end of the header.
  struct Entry {
    SafetensorsTensor tensor;
    std::array<std::uint64_t, 2> range{};
  };

  explicit SafetensorsHeaderReader(const std::string& file) : JsonParts{file, "header"} {}

  std::vector<Entry> entries;
  SafetensorsMetadata metadata;

 private:
  enum class Place : std::uint8_t { outside, file, metadata, tensor, dtype, shape, data_offsets };

  static constexpr std::string_view metadata_name = "__metadata__";

  void begin(char bracket) final {
    if (place_ == Place::outside && bracket == '{') {
      place_ = Place::file;
    } else if (place_ == Place::file && bracket == '{') {
      place_ = is_metadata_ ? Place::metadata : Place::tensor;
      given_ = {};
    } else if (is_list() && bracket == '[' && !is_in_list_) {
      is_in_list_ = true;
    } else {
      misplaced(bracket == '{' ? "an object" : "an array");
    }
  }

  void end() final {
    switch (place_) {
      case Place::shape:
      case Place::data_offsets:
        if (place_ == Place::data_offsets && offsets_ != 2) {
          refuse("its data_offsets are not two numbers", entry().tensor.name);
        }
        is_in_list_ = false;
        place_ = Place::tensor;
        break;
      case Place::tensor:
        for (const auto& [field, is_given] : given_) {
          if (!is_given) refuse("has no " + std::string{to_name(field)}, entry().tensor.name);
        }
        place_ = Place::file;
        break;
      case Place::metadata:
        place_ = Place::file;
        break;
      default:
        place_ = Place::outside;
    }
  }

  void name(std::string& key) final {
    if (place_ == Place::metadata) {
      metadata_key_ = std::move(key);
    } else if (place_ == Place::tensor) {
      const auto field = std::ranges::find(given_, key, [](const Given& given) { return to_name(given.field); });
      if (field == given_.end()) {
        refuse("has the field " + FormatError::printable(key) + ", which the format does not know",
               entry().tensor.name);
      }
      if (std::exchange(field->is_given, true)) {
        refuse("has two fields of the name " + std::string{to_name(field->field)}, entry().tensor.name);
      }
      place_ = field->field;
      offsets_ = 0;
    } else {
      is_metadata_ = key == metadata_name;
      if (!is_metadata_) {
        entries.emplace_back().tensor.name = std::move(key);
      } else if (std::exchange(has_metadata_, true)) {
        refuse("its header has __metadata__ twice");
      }
    }
  }

  void text(std::string& value) final {
    if (place_ == Place::metadata) {
      if (const auto [at, is_new] = metadata.try_emplace(metadata_key_, std::move(value)); !is_new) {
        refuse("its __metadata__ has " + FormatError::printable(metadata_key_) + " twice");
      }
    } else if (place_ == Place::dtype) {
      const std::optional<SafetensorsType> type = safetensors_type(std::string_view{value});
      if (!type) refuse("its dtype " + FormatError::printable(value) + " is not known", entry().tensor.name);
      entry().tensor.type = *type;
      place_ = Place::tensor;
    } else {
      misplaced("a string");
    }
  }

  void count(std::uint64_t value) final {
    if (is_in_list_ && place_ == Place::shape) {
      entry().tensor.shape.push_back(value);
    } else if (is_in_list_) {
      if (offsets_ < 2) entry().range[offsets_] = value;
      ++offsets_;
    } else {
      misplaced("the number " + std::to_string(value));
    }
  }

  void other(const std::string& shown) final { misplaced(shown); }

  [[noreturn]] void misplaced(const std::string& shown) const {
    switch (place_) {
      case Place::metadata:
        refuse("its __metadata__ has " + shown + " where a string is to be, at " +
               FormatError::printable(metadata_key_));
      case Place::outside:
        refuse("its header is " + shown + ", not an object");
      case Place::file:
        if (is_metadata_) refuse("its __metadata__ is " + shown + ", not an object of strings");
        refuse("is " + shown + ", not an object of dtype, shape and data_offsets", entry().tensor.name);
      default:
        refuse("has " + shown + " in its " + std::string{to_name(place_)} + ", where " +
                   (is_list() ? "an array of whole numbers" : "a string") + " is to be",
               entry().tensor.name);
    }
  }

  static std::string_view to_name(Place place) {
    return place == Place::dtype ? "dtype" : place == Place::shape ? "shape" : "data_offsets";
  }

  bool is_list() const noexcept { return place_ == Place::shape || place_ == Place::data_offsets; }
  Entry& entry() { return entries.back(); }
  const Entry& entry() const { return entries.back(); }

  struct Given {
    Place field;
    bool is_given = false;
  };
  /// The fields of a tensor, and whether the present one has them.
  struct Fields : std::array<Given, 3> {
    Fields() : std::array<Given, 3>{{{Place::dtype}, {Place::shape}, {Place::data_offsets}}} {}
  };

  Place place_ = Place::outside;
  bool is_metadata_ = false;  ///< Of the present name in the file.
  bool has_metadata_ = false;
  bool is_in_list_ = false;
  std::size_t offsets_ = 0;
  Fields given_;
  std::string metadata_key_;
};

/// A tensor with its range, checked by itself: against its type and shape, and against the data there is.
/// @param data Where the data begin in the file. @param bytes How many there are.
inline StoredSafetensorsTensor place_tensor(SafetensorsHeaderReader::Entry&& entry, std::uint64_t data,
                                            std::uint64_t bytes, const std::string& file) {
  StoredSafetensorsTensor tensor{std::move(entry.tensor)};
  const auto refuse = [&](const std::string& what) { throw_format_error(file, tensor.name, what); };
  const auto [begin, end] = entry.range;
  const std::string range = "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  if (begin > end) refuse("its " + range + " end before they begin");
  if (end > bytes) refuse("its " + range + " leave the " + std::to_string(bytes) + " bytes of data in the file");

  const std::optional<std::uint64_t> elements = elements_of(tensor.shape);
  const std::optional<std::uint64_t> bits =
      elements ? checked_product(*elements, element_bits(tensor.type)) : std::nullopt;
  if (!bits) refuse(describe(tensor) + " has more bits than 64 bits count");
  if (*bits % 8 != 0) refuse(describe(tensor) + " does not end with a byte");
  if (*bits / 8 != end - begin) {
    refuse(describe(tensor) + " has " + std::to_string(*bits / 8) + " bytes, its " + range + " have " +
           std::to_string(end - begin));
  }
  tensor.elements = *elements;
  tensor.offset = data + begin;
  tensor.bytes = end - begin;
  return tensor;
}

/// @param text The header. @param bytes Of the data that come after it in the file.
/// @throws FormatError if it is not as the format wants it, or the tensors' ranges are not just the data: each byte of
/// one tensor.
inline SafetensorsHeader read_safetensors_header(std::string_view text, std::uint64_t bytes, const std::string& file) {
  SafetensorsHeaderReader reader{file};
  reader.parse(text);

  const std::uint64_t data = safetensors_prefix + text.size();
  SafetensorsHeader header{{}, {}, std::move(reader.metadata)};
  std::vector<StoredSafetensorsTensor>& tensors = header.tensors;
  tensors.reserve(reader.entries.size());
  for (auto& entry : reader.entries) tensors.push_back(place_tensor(std::move(entry), data, bytes, file));

  const auto in_data = [](const StoredSafetensorsTensor& tensor) { return std::pair{tensor.offset, tensor.bytes}; };
  std::ranges::stable_sort(tensors, {}, in_data);
  header.by_name.resize(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) header.by_name[i] = i;
  const auto named = [&](std::size_t i) -> const std::string& { return tensors[i].name; };
  std::ranges::sort(header.by_name, {}, named);
  const auto twice = std::ranges::adjacent_find(header.by_name, {}, named);
  if (twice != header.by_name.end()) throw_format_error(file, named(*twice), "is there twice");

  std::uint64_t end = data;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const StoredSafetensorsTensor& tensor = tensors[i];
    if (tensor.offset < end) {
      throw_format_error(file, tensor.name,
                         "its bytes overlap those of " + FormatError::printable(tensors[i - 1].name));
    }
    if (tensor.offset > end) {
      throw_format_error(file, tensor.name,
                         std::to_string(tensor.offset - end) + " bytes before its own are of no tensor");
    }
    end += tensor.bytes;
  }
  if (end != data + bytes) {
    throw_format_error(file, {}, "its last " + std::to_string(data + bytes - end) + " bytes are of no tensor");
  }
  return header;
}

}  // namespace zerospan::inline v0::detail
