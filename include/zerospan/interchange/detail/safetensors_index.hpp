/// @file
/// The index of a model in several safetensors files: which file has which tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/safetensors_json.hpp>

namespace zerospan::inline v0::detail {

/// Reads the text: an object whose "weight_map" is an object of strings. What else there is says nothing of the
/// tensors, and is passed over.
class SafetensorsIndexReader final : public JsonParts {
 public:
  explicit SafetensorsIndexReader(const std::string& file) : JsonParts{file, "index"} {}

  /// @throws FormatError if it is no index, a name is there twice, or a file's name is one of another directory.
  std::map<std::string, std::string> read(std::string_view text) {
    parse(text);
    if (!has_map_) refuse("has no weight_map");
    return std::move(files_);
  }

 private:
  void begin(char bracket) final {
    if (depth_ == 1 && is_map_ && bracket != '{') misplaced("an array");
    if (depth_ > 1 && is_map_) misplaced(bracket == '{' ? "an object" : "an array");
    ++depth_;
  }

  void end() final {
    --depth_;
    if (depth_ == 1) is_map_ = false;
  }

  void name(std::string& key) final {
    if (depth_ == 1) {
      is_map_ = key == "weight_map";
      if (is_map_ && std::exchange(has_map_, true)) refuse("has two weight_maps");
    } else if (is_map_) {
      tensor_ = std::move(key);
    }
  }

  void text(std::string& value) final {
    if (!is_map_) return;
    if (depth_ == 1) misplaced("a string");
    if (value.empty() || value == "." || value == ".." || value.find('/') != std::string::npos ||
        value.find('\0') != std::string::npos) {
      refuse("its file \"" + FormatError::printable(value) + "\" is not the name of a file beside the index", tensor_);
    }
    if (const auto [at, is_new] = files_.try_emplace(std::move(tensor_), std::move(value)); !is_new) {
      refuse("is there twice", at->first);
    }
  }

  void count(std::uint64_t value) final { other("the number " + std::to_string(value)); }
  void other(const std::string& shown) final {
    if (is_map_) misplaced(shown);
  }

  [[noreturn]] void misplaced(const std::string& shown) const {
    if (depth_ == 1) refuse("its weight_map is " + shown + ", not an object");
    refuse("is " + shown + ", not the name of a file", tensor_);
  }

  std::map<std::string, std::string> files_;
  std::string tensor_;
  std::size_t depth_ = 0;
  bool is_map_ = false;  ///< Of the present name in the outermost object.
  bool has_map_ = false;
};

}  // namespace zerospan::inline v0::detail
