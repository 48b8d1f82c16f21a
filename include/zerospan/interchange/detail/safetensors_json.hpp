/// @file
/// JSON as the files of the format have it: read as it comes, without a tree, so that duplicate keys are seen and no
/// text takes more memory than what is kept of it. Needs nlohmann-json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// Bytes that a header or an index has at most: the limit of the format's own library.
inline constexpr std::uint64_t longest_safetensors_json = 100'000'000;

/// Takes the parts of a text one after the other. The parser does not recurse, and what derives from this must not.
class JsonParts : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonParts(const JsonParts&) = delete;
  JsonParts& operator=(const JsonParts&) = delete;

  /// @throws FormatError if the text is not JSON in UTF-8, or the parts are not what they are to be.
  void parse(std::string_view text) {
    // The parser would take a null character for the end, and pass over a byte order mark.
    if (text.find('\0') != std::string_view::npos) refuse("has a null character in its " + part_of_file_);
    if (!text.starts_with('{')) refuse("its " + part_of_file_ + " does not begin with {");
    nlohmann::json_sax<nlohmann::json>* const taker = this;
    nlohmann::json::sax_parse(text.begin(), text.end(), taker);
  }

 protected:
  /// @param part_of_file What the text is: "header".
  JsonParts(const std::string& file, std::string part_of_file) : file_{file}, part_of_file_{std::move(part_of_file)} {}

  /// An object or an array begins, or ends.
  virtual void begin(char bracket) = 0;
  virtual void end() = 0;
  virtual void name(std::string& key) = 0;
  virtual void text(std::string& value) = 0;
  virtual void count(std::uint64_t value) = 0;
  /// Any other value. @param shown It, in words.
  virtual void other(const std::string& shown) = 0;

  const std::string& file() const noexcept { return file_; }
  [[noreturn]] void refuse(const std::string& what, const std::string& tensor = {}) const {
    throw_format_error(file_, tensor, what);
  }

 private:
  bool null() final { return other("null"), true; }
  bool boolean(bool value) final { return other(value ? "true" : "false"), true; }
  bool number_integer(std::int64_t value) final { return other("the negative number " + std::to_string(value)), true; }
  bool number_unsigned(std::uint64_t value) final { return count(value), true; }
  bool number_float(double, const std::string& digits) final {
    return other("the number " + FormatError::printable(digits)), true;
  }
  bool string(std::string& value) final { return text(value), true; }
  bool binary(nlohmann::json::binary_t&) final { return false; }  // JSON has none
  bool start_object(std::size_t) final { return begin('{'), true; }
  bool start_array(std::size_t) final { return begin('['), true; }
  bool end_object() final { return end(), true; }
  bool end_array() final { return end(), true; }
  bool key(std::string& key) final { return name(key), true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) final {
    std::string reason = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 3: ": the position says as much.
    if (const auto colon = reason.find(": "); colon != std::string::npos) reason.erase(0, colon + 2);
    refuse("its " + part_of_file_ + " is not JSON in UTF-8: at its byte " + std::to_string(position) + " " +
           FormatError::printable(reason));
  }

  const std::string& file_;
  std::string part_of_file_;
};

/// A string as JSON has it, with its quotes.
/// @throws ConfigurationError if it is not UTF-8.
inline std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw_configuration_error(FormatError::printable(text) + " is not UTF-8, which names in a safetensors file are");
  }
}

}  // namespace zerospan::inline v0::detail
