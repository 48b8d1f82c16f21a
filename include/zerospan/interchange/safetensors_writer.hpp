/// @file
/// SafetensorsWriter: a model written range by range, into one safetensors file or several. Needs nlohmann-json.
#pragma once

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/interchange/detail/covered_bytes.hpp>
#include <zerospan/interchange/detail/partial_file.hpp>
#include <zerospan/interchange/detail/posix_files.hpp>
#include <zerospan/interchange/detail/safetensors_layout.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>
#include <zerospan/kernels/convert.hpp>

namespace zerospan::inline v0 {

struct SafetensorsOptions {
  /// Of a file, at most, unless one tensor alone is larger. Where there is more, there are several files and an index.
  Bytes file_limit{std::numeric_limits<std::size_t>::max()};
  /// What is said of the file, UTF-8. Transformers wants {"format", "pt"} in it.
  std::map<std::string, std::string> metadata{};
};

/// What a writer is among those of one model.
enum class SafetensorsRole : std::uint8_t {
  creates,  ///< Makes the files and finishes them: one writer.
  joins     ///< Writes into them: any number of others, in any process.
};

/// Writes what was declared, in ranges and any order. Until `finish` the files have temporary names, ".partial" at
/// their end; a writer that ends before removes them, and what one leaves behind that is killed is overwritten by the
/// next.
///
/// Where ranks write together, all are told the same; one creates, and the others join when it has. Each writes its own
/// ranges and then calls `synchronize`. When all have, the one that created calls `finish`, with the bytes that the
/// others wrote. A writer is called by one thread at a time.
/// @tparam Files The system's calls, for tests that make them fail.
template <class Files = detail::PosixFiles>
class BasicSafetensorsWriter {
 public:
  static_assert(std::endian::native == std::endian::little, "the format has the lowest byte first");

  /// Makes the files in their whole length, so that a full disk is found now; or opens them.
  /// @param path Ends in ".safetensors"; a file of this name is replaced in the end. Where several are made, the name
  /// has "-00001-of-00003" before its ending, and "path.index.json" names them all; files of such names without an
  /// index are what is left of a model that was never finished, and are replaced.
  /// @throws ConfigurationError if the path or a declaration has no sense. IoError if a file cannot be made:
  /// EWOULDBLOCK where another writer is making it; EEXIST where `path` is to have an index and is a file already, or
  /// has an index already, which is never replaced: readers might take the wrong one, or a mixture. FormatError if who
  /// joins was told otherwise than who created.
  explicit BasicSafetensorsWriter(const std::string& path, std::span<const SafetensorsTensor> tensors,
                                  const SafetensorsOptions& options = {},
                                  SafetensorsRole role = SafetensorsRole::creates, Files files = {})
      : role_{role},
        path_{checked(path)},
        layout_{detail::SafetensorsLayoutMaker::make(path_, tensors, options.metadata, options.file_limit)} {
    using Opening = typename detail::PartialFile<Files>::Opening;
    if (creates()) refuse_existing(files);
    for (std::size_t i = 0; i < layout_.files.size(); ++i) {
      const detail::SafetensorsFileLayout& planned = layout_.files[i];
      const auto& file = parts_.emplace_back(files, planned.path, creates() ? Opening::creates : Opening::joins).file();
      for (const StoredSafetensorsTensor& tensor : planned.tensors) homes_.emplace(tensor.name, Home{i, &tensor});
      const auto beginning = std::as_bytes(std::span{planned.beginning});
      if (creates()) {
        file.resize(planned.bytes);
        file.write(beginning, 0);
      } else {
        compare(planned, file, beginning);
      }
    }
    covered_.resize(layout_.files.size());
  }

  BasicSafetensorsWriter(const BasicSafetensorsWriter&) = delete;
  BasicSafetensorsWriter& operator=(const BasicSafetensorsWriter&) = delete;

  /// Writes elements from `first` on: as F32 as they are, as BF16 and F16 rounded to nearest even.
  /// @throws ConfigurationError if no such tensor was declared, its type is another, the range leaves it or the model
  /// is finished; IoError if it cannot be written, after which it may be tried again.
  void write(std::string_view name, std::uint64_t first, std::span<const float> elements) {
    const Home home = find(name);
    const std::optional<ElementType> type = element_type(home.tensor->type);
    if (!type) {
      throw_configuration_error(FormatError::printable(name) + " in " + path_of(home) + " is declared as " +
                                std::string{to_string(home.tensor->type)} + ", which floats are not written as");
    }
    check_range(home, first, elements.size(), home.tensor->elements, "elements");
    if (*type == ElementType::float32) return put(home, first * sizeof(float), std::as_bytes(elements));
    const std::size_t bytes = element_bytes(*type);
    if (!rounded_) rounded_ = std::make_unique<std::byte[]>(most_rounded * bytes);
    while (!elements.empty()) {
      const std::size_t count = std::min(elements.size(), most_rounded);
      from_float(elements.data(), *type, rounded_.get(), count);
      put(home, first * bytes, {rounded_.get(), count * bytes});
      first += count;
      elements = elements.subspan(count);
    }
  }

  /// Writes bytes of the tensor from `first` on, whatever its type.
  /// @throws as `write`
  void write_bytes(std::string_view name, std::uint64_t first, std::span<const std::byte> bytes) {
    const Home home = find(name);
    check_range(home, first, bytes.size(), home.tensor->bytes, "bytes");
    put(home, first, bytes);
  }

  /// Bytes that this writer has written so far, each counted once.
  std::uint64_t written() const noexcept {
    std::uint64_t sum = 0;
    for (const detail::CoveredBytes& covered : covered_) sum += covered.count();
    return sum;
  }

  /// Those of all tensors.
  std::uint64_t bytes() const noexcept { return layout_.data_bytes(); }

  /// Returns when the disk has what this writer has written.
  /// @throws IoError
  void synchronize() const {
    for (const detail::PartialFile<Files>& part : parts_) part.file().synchronize();
  }

  /// Gives the files their names, when the disk has them, the index last. If it throws, none of them is there, but
  /// where the directory alone could not be synchronized at the very end.
  /// @param written_by_others Bytes that the writers wrote that have joined, in sum.
  /// @throws ConfigurationError if something was not written, this writer has joined or has finished before; IoError
  void finish(std::uint64_t written_by_others = 0) {
    if (!creates()) throw_configuration_error(path_ + " is finished by the writer that created it");
    refuse_finished();
    check_complete(written_by_others);
    synchronize();
    std::optional<detail::PartialFile<Files>> index;
    if (!layout_.index.empty()) {
      index.emplace(parts_.front().file().files(), layout_.index_path, detail::PartialFile<Files>::Opening::creates);
      index->file().resize(layout_.index.size());
      index->file().write(std::as_bytes(std::span{layout_.index}), 0);
      index->file().synchronize();
    }
    try {
      for (detail::PartialFile<Files>& part : parts_) part.publish();
      if (index) {
        synchronize_directory();
        index->publish();
      }
    } catch (const IoError&) {
      for (const detail::PartialFile<Files>& part : parts_) part.withdraw();
      throw;
    }
    is_finished_ = true;
    synchronize_directory();
  }

 private:
  static constexpr std::size_t most_rounded = std::size_t{1} << 16;  // stays in a core's cache

  /// Where a tensor comes to lie.
  struct Home {
    std::size_t file;
    const StoredSafetensorsTensor* tensor;
  };

  /// The path from the root on: the process may go to another directory before the files have their names.
  static std::string checked(const std::string& path) {
    if (!detail::checked_path(path, "file", "a SafetensorsWriter").ends_with(".safetensors")) {
      throw_configuration_error(path + " does not end in .safetensors");
    }
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::absolute(path, error);
    if (error) throw_io_error(error.value(), "looking for the directory", path, 0, 0);
    return absolute.string();
  }

  bool creates() const noexcept { return role_ == SafetensorsRole::creates; }

  void refuse_existing(const Files& files) const {
    const auto refuse = [&](const std::string& existing, const char* what) {
      detail::FileStatus status;
      const int result = detail::uninterrupted([&] { return files.status(existing, status); });
      if (result == -ENOENT) return;
      throw_io_error(result == 0 ? EEXIST : -result, what, existing, 0, 0);
    };
    refuse(layout_.index_path, "writing a model that has an index already");
    if (!layout_.index.empty()) refuse(path_, "writing several files beside one that readers would take instead");
  }

  static void compare(const detail::SafetensorsFileLayout& planned, const detail::OpenFile<Files>& file,
                      std::span<const std::byte> beginning) {
    std::vector<std::byte> there(beginning.size());
    if (file.status().bytes == planned.bytes && file.read(there, 0) == there.size() &&
        std::ranges::equal(there, beginning)) {
      return;
    }
    throw_format_error(file.path(), {},
                       "was created for other tensors than this writer is told, or is not created yet");
  }

  void refuse_finished() const {
    if (is_finished_) throw_configuration_error(path_ + " is finished already");
  }

  Home find(std::string_view name) const {
    refuse_finished();
    const auto home = homes_.find(name);
    if (home == homes_.end()) {
      throw_configuration_error(FormatError::printable(name) + " is not declared for " + path_);
    }
    return home->second;
  }

  const std::string& path_of(const Home& home) const { return layout_.files[home.file].path; }

  void check_range(const Home& home, std::uint64_t first, std::size_t count, std::uint64_t all,
                   const char* of_what) const {
    if (first <= all && count <= all - first) return;
    throw_configuration_error("a write of " + std::to_string(count) + " " + of_what + " from " + std::to_string(first) +
                              " on leaves " + FormatError::printable(home.tensor->name) + " in " + path_of(home) +
                              ", which has " + std::to_string(all));
  }

  void put(const Home& home, std::uint64_t first, std::span<const std::byte> bytes) {
    const std::uint64_t offset = home.tensor->offset + first;
    parts_[home.file].file().write(bytes, offset);
    covered_[home.file].add(offset, offset + bytes.size());
  }

  void check_complete(std::uint64_t written_by_others) const {
    const std::uint64_t all = bytes();
    const std::uint64_t done = written();
    if (done <= all && written_by_others == all - done) return;
    std::string example;
    for (const auto& [name, home] : homes_) {
      const StoredSafetensorsTensor& tensor = *home.tensor;
      if (covered_[home.file].has(tensor.offset, tensor.offset + tensor.bytes)) continue;
      example = ", " + FormatError::printable(name) + " not wholly by this one";
      break;
    }
    throw_configuration_error("of the " + std::to_string(all) + " bytes of " + path_ + " this writer has written " +
                              std::to_string(done) + " and others " + std::to_string(written_by_others) + example);
  }

  void synchronize_directory() const {
    detail::open_file(parts_.front().file().files(), path_.substr(0, path_.rfind('/') + 1), O_RDONLY | O_DIRECTORY,
                      "opening the directory of a safetensors model")
        .synchronize();
  }

  SafetensorsRole role_;
  std::string path_;
  detail::SafetensorsLayout layout_;
  std::map<std::string_view, Home> homes_;
  std::deque<detail::PartialFile<Files>> parts_;
  std::vector<detail::CoveredBytes> covered_;  ///< By file.
  std::unique_ptr<std::byte[]> rounded_;
  bool is_finished_ = false;
};

using SafetensorsWriter = BasicSafetensorsWriter<>;

}  // namespace zerospan::inline v0
