/// @file
/// A value of a JSON file, which knows where it is there.
#pragma once

#include <cerrno>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

namespace machine {

/// A value of a file, and where it is there.
class Field {
 public:
  Field(const nlohmann::json& value, std::string file, std::string name)
      : value_{value}, file_{std::move(file)}, name_{std::move(name)} {}

  Field at(const std::string& key) const {
    if (!value_.is_object()) refuse("is no object");
    const Field inner{value_.contains(key) ? value_.at(key) : missing(), file_,
                      name_.empty() ? key : name_ + "." + key};
    if (!value_.contains(key)) inner.refuse("is missing");
    return inner;
  }

  /// @throws zerospan::ConfigurationError unless it is a finite number above zero.
  double positive() const {
    const double number = not_negative();
    if (number <= 0) refuse("is not above zero");
    return number;
  }
  double not_negative() const {
    if (!value_.is_number()) refuse("is no number");
    const auto number = value_.get<double>();
    if (!std::isfinite(number) || number < 0) refuse("is negative, or not finite");
    return number;
  }
  std::size_t count() const {
    const double number = positive();
    if (number != std::floor(number) || number > 1e15) refuse("is no count");
    return static_cast<std::size_t>(number);
  }
  std::string text() const {
    if (!value_.is_string()) refuse("is no text");
    return value_.get<std::string>();
  }
  /// Which of the names it is.
  template <class Names>
  std::size_t one_of(const Names& names) const {
    const std::string is = text();
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (is == names[i]) return i;
    }
    refuse("is not known: " + is);
  }

  template <class Visit>
  void for_each_element(Visit visit) const {
    if (!value_.is_array() || value_.empty()) refuse("is no list of something");
    for (std::size_t i = 0; i < value_.size(); ++i)
      visit(Field{value_[i], file_, name_ + "[" + std::to_string(i) + "]"});
  }
  template <class Visit>
  void for_each_member(Visit visit) const {
    if (!value_.is_object()) refuse("is no object");
    for (const auto& [key, inner] : value_.items()) visit(key, Field{inner, file_, name_ + "." + key});
  }

  [[noreturn]] void refuse(const std::string& why) const {
    zerospan::throw_configuration_error(file_ + ": " + (name_.empty() ? "all of it" : name_) + " " + why);
  }

 private:
  static const nlohmann::json& missing() {
    static const nlohmann::json null;
    return null;
  }

  const nlohmann::json& value_;
  std::string file_;
  std::string name_;
};

/// @param what Is told in errors: "the rates".
/// @throws std::system_error if the file cannot be read, zerospan::ConfigurationError if it is not JSON.
inline nlohmann::json read_json(const std::filesystem::path& path, const std::string& what) {
  std::ifstream stream{path};
  if (!stream) throw std::system_error{errno, std::generic_category(), "cannot read " + what + " in " + path.string()};
  auto json = nlohmann::json::parse(stream, nullptr, false);
  if (json.is_discarded()) zerospan::throw_configuration_error(path.string() + ": is not JSON");
  return json;
}

}  // namespace machine
