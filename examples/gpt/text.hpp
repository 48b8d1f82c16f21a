/// @file
/// The text to learn, as bytes, and its two splits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gpt {

/// The first nine tenths train, the last tenth validates.
class Text {
 public:
  explicit Text(std::vector<std::uint8_t> bytes) : bytes_{std::move(bytes)} {}

  /// The files' contents, one after the other. @throws std::runtime_error naming the file that cannot be read.
  static Text read(std::span<const std::filesystem::path> files) {
    std::vector<std::uint8_t> bytes;
    for (const std::filesystem::path& file : files) {
      std::ifstream stream{file, std::ios::binary};
      bytes.insert(bytes.end(), std::istreambuf_iterator<char>{stream}, {});
      if (!stream) throw std::runtime_error{"cannot read the text " + file.string()};
    }
    return Text{std::move(bytes)};
  }

  std::span<const std::uint8_t> train() const { return std::span{bytes_}.first(bytes_.size() * 9 / 10); }
  std::span<const std::uint8_t> validation() const { return std::span{bytes_}.subspan(train().size()); }

 private:
  std::vector<std::uint8_t> bytes_;
};

/// The headers, tests and README of a source tree, sorted by name: a text that is always there.
inline std::vector<std::filesystem::path> source_files(const std::filesystem::path& root) {
  std::vector<std::filesystem::path> files;
  for (const char* folder : {"include", "tests"}) {
    if (!std::filesystem::is_directory(root / folder)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator{root / folder}) {
      const std::string extension = entry.path().extension().string();
      if (entry.is_regular_file() && (extension == ".hpp" || extension == ".cpp")) files.push_back(entry.path());
    }
  }
  if (std::filesystem::exists(root / "README.md")) files.push_back(root / "README.md");
  std::ranges::sort(files);
  return files;
}

}  // namespace gpt
