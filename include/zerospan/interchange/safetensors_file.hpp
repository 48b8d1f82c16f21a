/// @file
/// SafetensorsFile: the tensors of a safetensors file, read range by range. Needs nlohmann-json.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/posix_files.hpp>
#include <zerospan/interchange/detail/safetensors_header.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/tier/file_backed_extents.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Opens a file for reading. @throws IoError if it cannot be, FormatError if it is neither a file nor a directory.
template <class Files>
OpenFile<Files> open_regular(std::string path, Files files, const std::string& purpose) {
  // Without O_NONBLOCK the call waits where a pipe has no writer.
  OpenFile<Files> file = open_file(std::move(files), std::move(path), O_RDONLY | O_NONBLOCK, purpose);
  const FileStatus::Kind kind = file.status().kind;
  if (kind == FileStatus::Kind::directory) throw_io_error(EISDIR, purpose, file.path(), 0, 0);
  if (kind == FileStatus::Kind::other) throw_format_error(file.path(), {}, "is not a regular file");
  return file;
}

/// Reads all of `data`. @throws IoError, and FormatError where the file ends before.
template <class Files>
void read_whole(const OpenFile<Files>& file, std::span<std::byte> data, std::uint64_t offset,
                const std::string& tensor) {
  const std::size_t done = file.read(data, offset);
  if (done == data.size()) return;
  throw_format_error(file.path(), tensor,
                     "the file now ends at byte " + std::to_string(offset + done) + ", and has become shorter");
}

}  // namespace detail

/// A file that is looked at once, and then read range by range: nothing of the tensors is kept in memory. Reading is
/// `const`, and threads may do it at once. Should another program write into the file meanwhile, what is read is of no
/// moment in particular; that the file has become shorter is told.
/// @tparam Files The system's calls, for tests that make them fail.
template <class Files = detail::PosixFiles>
class BasicSafetensorsFile {
 public:
  static_assert(std::endian::native == std::endian::little, "the format has the lowest byte first");

  /// Opens it, and checks its header against its length; takes memory for what the header names, and no more because of
  /// what it claims.
  /// @throws ConfigurationError if the path is empty, IoError if it cannot be opened or read, FormatError if it is not
  /// as the format wants it.
  explicit BasicSafetensorsFile(std::string path, Files files = {})
      : file_{detail::open_regular(detail::checked_path(path, "file", "a SafetensorsFile"), std::move(files),
                                   "opening a safetensors file")},
        status_{file_.status()},
        header_{read_header()} {}

  const std::string& path() const noexcept { return file_.path(); }

  /// In the order of their data.
  std::span<const StoredSafetensorsTensor> tensors() const noexcept { return header_.tensors; }

  /// What the file's maker has said of it, "__metadata__".
  const std::map<std::string, std::string>& metadata() const noexcept { return header_.metadata; }

  /// nullptr if there is none of this name.
  const StoredSafetensorsTensor* find(std::string_view name) const { return header_.find(name); }

  /// @throws FormatError if there is none of this name.
  const StoredSafetensorsTensor& tensor(std::string_view name) const {
    const StoredSafetensorsTensor* found = find(name);
    if (found == nullptr) throw_format_error(path(), std::string{name}, "is not there");
    return *found;
  }

  /// Reads the elements from `first` on, as many as `out` has, as floats: F32, BF16 and F16 exactly, F64 rounded to
  /// nearest even. Takes no memory.
  /// @throws FormatError if there is no such tensor, its type is another or the file has become shorter; IoError if it
  /// cannot be read, ConfigurationError if the range leaves the tensor.
  void read(std::string_view name, std::uint64_t first, std::span<float> out) const {
    const StoredSafetensorsTensor& stored = tensor(name);
    check_range(stored, first, out.size(), stored.elements, "elements");
    const std::optional<ElementType> type = element_type(stored.type);
    if (!type && stored.type != SafetensorsType::float64) {
      throw_format_error(path(), stored.name,
                         "its elements are " + std::string{to_string(stored.type)} + ", which are not read as floats");
    }
    if (type == ElementType::float32) {
      detail::read_whole(file_, std::as_writable_bytes(out), stored.offset + first * sizeof(float), stored.name);
    } else if (type) {
      read_converted(stored, first, out, element_bytes(*type),
                     [&](const std::byte* in, float* to, std::size_t n) { to_float(*type, in, to, n); });
    } else {
      read_converted(stored, first, out, sizeof(double), [](const std::byte* in, float* to, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
          double value = 0.0;
          std::memcpy(&value, in + i * sizeof value, sizeof value);
          to[i] = static_cast<float>(value);
        }
      });
    }
  }

  /// Reads the tensor's bytes from `first` on, as many as `out` has, whatever its type.
  /// @throws as `read`
  void read_bytes(std::string_view name, std::uint64_t first, std::span<std::byte> out) const {
    const StoredSafetensorsTensor& stored = tensor(name);
    check_range(stored, first, out.size(), stored.bytes, "bytes");
    detail::read_whole(file_, out, stored.offset + first, stored.name);
  }

  /// The file for a tier whose extents may rest in it: as this knows it, and open for as long as it is wanted.
  /// @throws IoError
  std::shared_ptr<const BackingFile> backing() const {
    return std::make_shared<const BackingFile>(path(), file_.descriptor(), status_.version);
  }

 private:
  detail::SafetensorsHeader read_header() const {
    const std::uint64_t bytes = status_.bytes;
    std::array<std::byte, detail::safetensors_prefix> prefix{};
    if (bytes < prefix.size()) {
      throw_format_error(path(), {},
                         "has " + std::to_string(bytes) + " bytes, fewer than the length of a header takes");
    }
    detail::read_whole(file_, prefix, 0, {});
    const auto length = std::bit_cast<std::uint64_t>(prefix);
    const std::string claim = "claims a header of " + std::to_string(length) + " bytes, ";
    if (length > detail::longest_safetensors_json) {
      throw_format_error(path(), {},
                         claim + "more than the format's " + std::to_string(detail::longest_safetensors_json));
    }
    if (length > bytes - prefix.size()) {
      throw_format_error(path(), {}, claim + "and has " + std::to_string(bytes) + " bytes altogether");
    }
    std::string text(length, '\0');
    detail::read_whole(file_, std::as_writable_bytes(std::span{text}), prefix.size(), {});
    return detail::read_safetensors_header(text, bytes - prefix.size() - length, path());
  }

  void check_range(const StoredSafetensorsTensor& stored, std::uint64_t first, std::size_t count, std::uint64_t all,
                   const char* of_what) const {
    if (first <= all && count <= all - first) return;
    throw_configuration_error("a read of " + std::to_string(count) + " " + of_what + " from " + std::to_string(first) +
                              " on leaves " + FormatError::printable(stored.name) + " in " + path() + ", which has " +
                              std::to_string(all));
  }

  /// Reads elements into the end of what is left of `out`, and converts them into its beginning, so that no other
  /// memory is needed.
  template <class Convert>
  void read_converted(const StoredSafetensorsTensor& stored, std::uint64_t first, std::span<float> out,
                      std::size_t element, Convert convert) const {
    constexpr std::size_t most = std::size_t{1} << 16;  // stays in a core's cache
    while (!out.empty()) {
      std::array<std::byte, sizeof(double)> one{};
      std::span<std::byte> raw = one;
      std::size_t count = std::min(out.size() * sizeof(float) / (sizeof(float) + element), most);
      if (count == 0) {
        count = 1;
        raw = raw.first(element);
      } else {
        raw = std::as_writable_bytes(out).last(count * element);
      }
      detail::read_whole(file_, raw, stored.offset + first * element, stored.name);
      convert(raw.data(), out.data(), count);
      first += count;
      out = out.subspan(count);
    }
  }

  detail::OpenFile<Files> file_;
  detail::FileStatus status_;  ///< Before anything was read.
  detail::SafetensorsHeader header_;
};

using SafetensorsFile = BasicSafetensorsFile<>;

}  // namespace zerospan::inline v0
