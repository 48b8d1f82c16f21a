/// @file
/// Where each tensor of a model to be written comes to lie: in which file, and at which bytes.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/interchange/detail/safetensors_header.hpp>
#include <zerospan/interchange/detail/safetensors_json.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>

namespace zerospan::inline v0::detail {

/// One file of a model: how it begins, and what is in it.
struct SafetensorsFileLayout {
  std::string path;
  std::string beginning;                         ///< The header's length and the header.
  std::vector<StoredSafetensorsTensor> tensors;  ///< In the order of their data.
  std::uint64_t bytes = 0;                       ///< Of the file.
};

/// Equal on all ranks that were told the same.
struct SafetensorsLayout {
  std::vector<SafetensorsFileLayout> files;
  std::string index_path;
  std::string index;  ///< Empty where there is one file.

  std::uint64_t data_bytes() const {
    std::uint64_t sum = 0;
    for (const SafetensorsFileLayout& file : files) sum += file.bytes - file.beginning.size();
    return sum;
  }
};

class SafetensorsLayoutMaker {
 public:
  /// @param path Of the file, ends in ".safetensors". Of several, "-00001-of-00003" comes before that.
  /// @param limit Bytes of a file with more than one tensor, at most.
  /// @throws ConfigurationError if a name is there twice, is the format's own or is not UTF-8, a tensor has more bytes
  /// than a file can, or its last byte is not full.
  static SafetensorsLayout make(const std::string& path, std::span<const SafetensorsTensor> tensors,
                                const SafetensorsMetadata& metadata, Bytes limit) {
    const std::string begin_of_header = metadata_text(metadata);
    SafetensorsLayout layout;
    std::map<std::string_view, std::size_t> homes;
    std::uint64_t most = 0;  // bytes of the present file, with offsets of as many digits as there are
    for (const SafetensorsTensor& tensor : tensors) {
      StoredSafetensorsTensor stored = measured(tensor);
      const std::uint64_t needed = stored.bytes + entry(stored, longest, longest).size() + 1;
      if (layout.files.empty() || (!layout.files.back().tensors.empty() && most + needed > limit.count)) {
        layout.files.emplace_back();
        most = safetensors_prefix + begin_of_header.size() + alignment;
      }
      most += needed;
      if (most > longest_file) throw_configuration_error(path + " would have more bytes than a file can");
      if (!homes.emplace(tensor.name, layout.files.size() - 1).second) {
        throw_configuration_error(FormatError::printable(tensor.name) + " is declared twice for " + path);
      }
      layout.files.back().tensors.push_back(std::move(stored));
    }
    if (layout.files.empty()) layout.files.emplace_back();

    for (std::size_t i = 0; i < layout.files.size(); ++i) {
      layout.files[i].path = layout.files.size() == 1 ? path : numbered(path, i + 1, layout.files.size());
      place(layout.files[i], begin_of_header);
    }
    layout.index_path = path + ".index.json";
    if (layout.files.size() > 1) layout.index = index_text(layout, homes);
    return layout;
  }

 private:
  static constexpr std::size_t alignment = 8;  ///< Of the data in the file, and so of every element in it.
  static constexpr std::uint64_t longest = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint64_t longest_file = std::numeric_limits<std::int64_t>::max();

  static StoredSafetensorsTensor measured(const SafetensorsTensor& tensor) {
    if (tensor.name == "__metadata__") throw_configuration_error("no tensor is called __metadata__ in the format");
    const std::optional<std::uint64_t> elements = elements_of(tensor.shape);
    const std::optional<std::uint64_t> bits =
        elements ? checked_product(*elements, element_bits(tensor.type)) : std::nullopt;
    if (!bits || *bits % 8 != 0) {
      throw_configuration_error(FormatError::printable(tensor.name) + ", " + describe(tensor) +
                                (bits ? ", does not end with a byte" : ", has more bits than 64 bits count"));
    }
    return {tensor, *elements, 0, *bits / 8};
  }

  static std::string entry(const SafetensorsTensor& tensor, std::uint64_t begin, std::uint64_t end) {
    std::string text = quoted(tensor.name) + ":{\"dtype\":\"" + std::string{to_string(tensor.type)} + "\",\"shape\":[";
    for (const std::uint64_t extent : tensor.shape) text += std::to_string(extent) + ",";
    if (text.ends_with(',')) text.pop_back();
    return text + "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
  }

  /// The header's text up to the first tensor.
  static std::string metadata_text(const SafetensorsMetadata& metadata) {
    std::string text = "{";
    for (const auto& [key, value] : metadata) {
      text += (text == "{" ? "\"__metadata__\":{" : ",") + quoted(key) + ":" + quoted(value);
    }
    return metadata.empty() ? text : text + "},";
  }

  /// Gives the tensors their places, the largest elements first, so that all are aligned.
  static void place(SafetensorsFileLayout& file, const std::string& begin_of_header) {
    std::ranges::stable_sort(file.tensors, std::greater{},
                             [](const StoredSafetensorsTensor& tensor) { return element_bits(tensor.type); });
    std::string header = begin_of_header;
    std::uint64_t bytes = 0;
    for (StoredSafetensorsTensor& tensor : file.tensors) {
      tensor.offset = bytes;
      bytes += tensor.bytes;
      header += entry(tensor, tensor.offset, bytes) + ",";
    }
    if (header.ends_with(',')) header.pop_back();
    header += "}";
    header.resize(round_up(header.size(), alignment), ' ');
    if (header.size() > longest_safetensors_json) {
      throw_configuration_error("the header of " + file.path + " would have " + std::to_string(header.size()) +
                                " bytes, more than the format's " + std::to_string(longest_safetensors_json));
    }

    file.beginning.resize(safetensors_prefix);
    const std::uint64_t length = header.size();
    std::memcpy(file.beginning.data(), &length, safetensors_prefix);
    file.beginning += header;
    for (StoredSafetensorsTensor& tensor : file.tensors) tensor.offset += file.beginning.size();
    file.bytes = file.beginning.size() + bytes;
  }

  static std::string numbered(const std::string& path, std::size_t number, std::size_t of) {
    const auto five_digits = [](std::size_t n) {
      const std::string digits = std::to_string(n);
      return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    constexpr std::string_view suffix = ".safetensors";
    return path.substr(0, path.size() - suffix.size()) + "-" + five_digits(number) + "-of-" + five_digits(of) +
           std::string{suffix};
  }

  static std::string index_text(const SafetensorsLayout& layout, const std::map<std::string_view, std::size_t>& homes) {
    std::string text = "{\n  \"metadata\": {\n    \"total_size\": " + std::to_string(layout.data_bytes()) +
                       "\n  },\n  \"weight_map\": {";
    const char* separator = "\n";
    for (const auto& [name, file] : homes) {
      const std::string& path = layout.files[file].path;
      text += std::exchange(separator, ",\n") + ("    " + quoted(std::string{name})) + ": " +
              quoted(path.substr(path.rfind('/') + 1));
    }
    return text + "\n  }\n}\n";
  }
};

}  // namespace zerospan::inline v0::detail
