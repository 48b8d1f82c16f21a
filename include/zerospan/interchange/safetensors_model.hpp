/// @file
/// SafetensorsModel: the tensors of one safetensors file, or of several with an index. Needs nlohmann-json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/posix_files.hpp>
#include <zerospan/interchange/detail/safetensors_index.hpp>
#include <zerospan/interchange/safetensors_file.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>

namespace zerospan::inline v0 {

/// A model as it is passed on: `model.safetensors`, or files that a `model.safetensors.index.json` beside them names.
/// All files are open as long as it lasts.
class SafetensorsModel {
 public:
  /// @param path The file; or the index, which ends in ".json"; or the directory, in which a `model.safetensors` comes
  /// before an index.
  /// @throws ConfigurationError if it is empty, IoError if a file cannot be opened or read, FormatError if one is not
  /// as the format wants it, or if the index and the files do not have the same tensors.
  explicit SafetensorsModel(const std::string& path)
      : path_{choose(detail::checked_path(path, "file", "a SafetensorsModel"))} {
    if (path_.ends_with(".json")) {
      open_indexed();
    } else {
      files_.emplace_back(path_);
      for (const StoredSafetensorsTensor& tensor : files_.front().tensors()) {
        homes_.emplace(tensor.name, &files_.front());
      }
    }
  }

  SafetensorsModel(const SafetensorsModel&) = delete;
  SafetensorsModel& operator=(const SafetensorsModel&) = delete;

  /// The file, or the index.
  const std::string& path() const noexcept { return path_; }

  /// In which file each tensor is, by name.
  const std::map<std::string, const SafetensorsFile*, std::less<>>& tensors() const noexcept { return homes_; }

  /// nullptr if there is none of this name.
  const StoredSafetensorsTensor* find(std::string_view name) const {
    const auto home = homes_.find(name);
    return home == homes_.end() ? nullptr : home->second->find(name);
  }

  /// The file that has it. @throws FormatError if there is none of this name.
  const SafetensorsFile& file(std::string_view name) const {
    const auto home = homes_.find(name);
    if (home == homes_.end()) throw_format_error(path_, std::string{name}, "is not there");
    return *home->second;
  }

  /// @throws FormatError if there is none of this name.
  const StoredSafetensorsTensor& tensor(std::string_view name) const { return file(name).tensor(name); }

  /// As SafetensorsFile::read and SafetensorsFile::read_bytes.
  void read(std::string_view name, std::uint64_t first, std::span<float> out) const {
    file(name).read(name, first, out);
  }
  void read_bytes(std::string_view name, std::uint64_t first, std::span<std::byte> out) const {
    file(name).read_bytes(name, first, out);
  }

 private:
  static constexpr std::string_view in_directory = "/model.safetensors";

  static std::string choose(const std::string& path) {
    const detail::PosixFiles files;
    detail::FileStatus status;
    if (files.status(path, status) != 0 || status.kind != detail::FileStatus::Kind::directory) return path;
    std::string one = path + std::string{in_directory};
    const std::string index = one + ".index.json";
    if (files.status(one, status) != 0 && files.status(index, status) == 0) return index;
    return one;
  }

  void open_indexed() {
    const std::map<std::string, std::string> index = read_index();
    const std::string directory = path_.substr(0, path_.rfind('/') + 1);
    std::map<std::string_view, const SafetensorsFile*> opened;
    for (const auto& [name, file] : index) {
      const SafetensorsFile*& home = opened[file];
      if (home == nullptr) home = &files_.emplace_back(directory + file);
      if (home->find(name) == nullptr) {
        throw_format_error(path_, name, "is not in " + home->path() + ", where the index has it");
      }
      homes_.emplace(name, home);
    }
    for (const SafetensorsFile& file : files_) {
      for (const StoredSafetensorsTensor& tensor : file.tensors()) {
        const auto home = homes_.find(tensor.name);
        if (home == homes_.end()) throw_format_error(file.path(), tensor.name, "is not in the index " + path_);
        if (home->second != &file) {
          throw_format_error(file.path(), tensor.name, "is in " + home->second->path() + " by the index " + path_);
        }
      }
    }
  }

  std::map<std::string, std::string> read_index() const {
    const auto file = detail::open_regular(path_, detail::PosixFiles{}, "opening the index of a safetensors model");
    const std::uint64_t bytes = file.status().bytes;
    if (bytes > detail::longest_safetensors_json) {
      throw_format_error(path_, {}, "has " + std::to_string(bytes) + " bytes, more than an index has");
    }
    std::string text(bytes, '\0');
    detail::read_whole(file, std::as_writable_bytes(std::span{text}), 0, {});
    return detail::SafetensorsIndexReader{path_}.read(text);
  }

  std::string path_;
  std::deque<SafetensorsFile> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> homes_;
};

}  // namespace zerospan::inline v0
