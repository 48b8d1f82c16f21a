/// @file
/// What is refused of a path before the system is asked.
#pragma once

#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// The path itself, for use. An empty one is an option that was forgotten or an empty variable, and would be taken for
/// the root directory once a name is appended; at a null character the system would cut a path off. Whatever else is
/// wrong with a path, the system finds: ENOENT, ENOTDIR, ENAMETOOLONG and the like.
/// @param kind "directory", or what else it names. @param user Whose path it is: "an NvmeTier".
/// @throws ConfigurationError
inline const std::string& checked_path(const std::string& path, std::string_view kind, std::string_view user) {
  if (path.empty()) {
    throw_configuration_error("no " + std::string{kind} + " was given for " + std::string{user} +
                              ": its path is empty");
  }
  if (const auto null = path.find('\0'); null != std::string::npos) {
    throw_configuration_error("the " + std::string{kind} + " for " + std::string{user} +
                              " has a null character in its path, after " + path.substr(0, null));
  }
  return path;
}

}  // namespace zerospan::inline v0::detail
