/// @file
/// CheckpointDirectory: which checkpoints a directory has, and the names of their files.
#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// A checkpoint's name: "step-8", and "step-8.1" where that step is saved a second time. Names are ordered by step.
struct CheckpointName {
  std::int64_t step = 0;
  std::int64_t copy = 0;

  friend auto operator<=>(const CheckpointName&, const CheckpointName&) = default;

  std::string text() const {
    return "step-" + std::to_string(step) + (copy > 0 ? "." + std::to_string(copy) : std::string{});
  }

  /// Nothing, if it is no such name.
  static std::optional<CheckpointName> parse(std::string_view text) {
    constexpr std::string_view prefix = "step-";
    if (!text.starts_with(prefix)) return std::nullopt;
    CheckpointName name;
    const char* const end = text.data() + text.size();
    auto next = std::from_chars(text.data() + prefix.size(), end, name.step);
    if (next.ec == std::errc{} && next.ptr != end && *next.ptr == '.') {
      next = std::from_chars(next.ptr + 1, end, name.copy);
    }
    if (next.ec != std::errc{} || next.ptr != end || name.text() != text || name.step < 0) return std::nullopt;
    return name;
  }
};

/// A directory of checkpoints, each of which is a directory. One is complete when its manifest is there, and is the
/// latest when the file `latest` names it.
class CheckpointDirectory {
 public:
  static constexpr const char* manifest_file = "manifest.json";

  /// @param files Outlive it.
  CheckpointDirectory(CheckpointFiles& files, std::string path) : files_{files}, path_{std::move(path)} {}

  const std::string& path() const noexcept { return path_; }
  std::string path_of(const CheckpointName& name) const { return path_ + "/" + name.text(); }
  std::string manifest_of(const CheckpointName& name) const { return path_of(name) + "/" + manifest_file; }
  std::string part_of(const CheckpointName& name, std::size_t rank) const {
    return path_of(name) + "/rank-" + std::to_string(rank) + ".json";
  }
  std::string data_of(const CheckpointName& name, std::size_t rank) const {
    return path_of(name) + "/rank-" + std::to_string(rank) + ".data";
  }

  /// @param number Of a file that was linked, from 1 on.
  std::string linked_of(const CheckpointName& name, std::size_t rank, std::size_t number) const {
    return path_of(name) + "/rank-" + std::to_string(rank) + "." + std::to_string(number) + ".data";
  }

  /// Makes the directory, and what it is in. @throws IoError
  void make() const { make(path_); }

  /// That the directory was made is durable. @throws IoError
  void make_durable() const {
    try {
      files_.sync_directory(parent_of(path_));
    } catch (const IoError& error) {
      if (error.code().value() != EACCES) throw;  // one that may not be read was made by somebody else
    }
  }

  /// @throws CheckpointError if somebody else is saving.
  std::unique_ptr<CheckpointFiles::Lock> lock() const {
    const std::string path = path_ + "/lock";
    auto held = files_.lock(path);
    if (!held) throw_checkpoint_error("another job is saving into this directory", path);
    return held;
  }

  /// The complete checkpoints, from the first step to the last. @throws IoError
  std::vector<CheckpointName> complete() const { return names(true); }

  /// What `latest` names, if it is complete; else the complete one of the last step, if there is one. @throws IoError
  std::optional<CheckpointName> latest() const {
    const std::vector<CheckpointName> all = complete();
    if (const auto file = files_.open(path_ + "/latest"); file && file->size() <= 100) {
      std::string text(static_cast<std::size_t>(file->size()), '\0');
      file->read(0, std::as_writable_bytes(std::span{text}));
      if (text.ends_with('\n')) text.pop_back();
      const std::optional<CheckpointName> named = CheckpointName::parse(text);
      if (named && std::ranges::find(all, *named) != all.end()) return named;
    }
    if (all.empty()) return std::nullopt;
    return all.back();
  }

  /// The last complete one of a step. @throws IoError
  std::optional<CheckpointName> of_step(std::int64_t step) const {
    std::optional<CheckpointName> found;
    for (const CheckpointName& name : complete()) {
      if (name.step == step) found = name;
    }
    return found;
  }

  /// Removes what was begun and never completed. For who has the lock. @throws IoError
  void remove_incomplete() const {
    for (const CheckpointName& name : names(false)) remove(name);
  }

  /// A name for a checkpoint of that step that none has, complete or not. @throws IoError
  CheckpointName next_name(std::int64_t step) const {
    CheckpointName next{step, 0};
    for (const std::string& entry : files_.list(path_)) {
      const std::optional<CheckpointName> taken = CheckpointName::parse(entry);
      if (taken && taken->step == step) next.copy = std::max(next.copy, taken->copy + 1);
    }
    return next;
  }

  /// Makes a small file, or replaces it at once. @param directory In which it is.
  /// @param is_renamed Set as soon as the new file may be there.
  void replace(const std::string& directory, const std::string& name, std::string_view text, bool& is_renamed) const {
    const std::string path = directory + "/" + name;
    {
      const auto file = files_.create(path + ".tmp");
      file->write(std::as_bytes(std::span{text}));
      file->sync();
    }
    files_.rename(path + ".tmp", path);
    is_renamed = true;
    files_.sync_directory(directory);
  }

  /// Removes a checkpoint; from its first operation on it is no complete one. @throws IoError
  void remove(const CheckpointName& name) const {
    const std::string path = path_of(name);
    std::vector<std::string> entries = files_.list(path);
    const auto manifest = std::ranges::find(entries, manifest_file);
    if (manifest != entries.end()) {
      std::iter_swap(entries.begin(), manifest);
      files_.remove(path + "/" + entries.front());
      files_.sync_directory(path);
      entries.erase(entries.begin());
    }
    for (const std::string& entry : entries) files_.remove(path + "/" + entry);
    files_.remove(path);
  }

 private:
  static std::string parent_of(const std::string& path) {
    const std::size_t last = path.find_last_not_of('/');
    const std::size_t slash = path.find_last_of('/', last);
    if (last == std::string::npos || slash == 0) return "/";
    return slash == std::string::npos ? "." : path.substr(0, slash);
  }

  void make(const std::string& path) const {
    try {
      files_.make_directory(path);
    } catch (const IoError& error) {
      const std::string parent = parent_of(path);
      if (error.code().value() != ENOENT || parent == path || parent == ".") throw;
      make(parent);
      files_.make_directory(path);
      files_.sync_directory(parent);
    }
  }

  std::vector<CheckpointName> names(bool are_complete) const {
    std::vector<CheckpointName> result;
    for (const std::string& entry : files_.list(path_)) {
      const std::optional<CheckpointName> name = CheckpointName::parse(entry);
      if (!name) continue;
      const std::vector<std::string> entries = files_.list(path_of(*name));
      const bool is_complete = std::ranges::find(entries, manifest_file) != entries.end();
      if (is_complete == are_complete) result.push_back(*name);
    }
    std::ranges::sort(result);
    return result;
  }

  CheckpointFiles& files_;
  std::string path_;
};

}  // namespace zerospan::inline v0::detail
