/// @file
/// FileBackedExtents: what a tier offers whose extents may rest in files of others, instead of being written.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// What of a file changes when it is written; a moment later, as fine as the file system's clock is.
struct FileVersion {
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;  ///< In nanoseconds, as the file system has it.

  static FileVersion of(const struct stat& status) noexcept {
    constexpr std::int64_t second = 1'000'000'000;
    return {static_cast<std::uint64_t>(status.st_size), status.st_mtim.tv_sec * second + status.st_mtim.tv_nsec};
  }

  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

/// A file of others that is read, and must stay what it was. It is open as long as this is there, whatever becomes of
/// its name.
class BackingFile {
 public:
  /// @param path Names it in errors. @param descriptor Open for reading; it remains the caller's.
  /// @param version What the file was when the caller learned what is in it.
  /// @throws IoError if the process can have no more files.
  BackingFile(std::string path, int descriptor, const FileVersion& version)
      : path_{std::move(path)}, version_{version}, descriptor_{::fcntl(descriptor, F_DUPFD_CLOEXEC, 0)} {
    if (descriptor_ < 0) throw_io_error(errno, "opening a file again", path_, 0, 0);
  }
  BackingFile(const BackingFile&) = delete;
  BackingFile& operator=(const BackingFile&) = delete;
  ~BackingFile() { ::close(descriptor_); }

  const std::string& path() const noexcept { return path_; }
  int descriptor() const noexcept { return descriptor_; }

  /// Whether size and time are what they were. A file that another one has replaced under its name has not changed.
  bool is_unchanged() const noexcept {
    struct stat status {};
    return ::fstat(descriptor_, &status) == 0 && FileVersion::of(status) == version_;
  }

 private:
  std::string path_;
  FileVersion version_;
  int descriptor_;
};

/// Bytes of such a file.
struct BackedBytes {
  std::shared_ptr<const BackingFile> file;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
};

/// A tier's extents in files of others: what is read of them is read there, and nothing has been written. A write to
/// such a range ends that for what it covers, and goes where extents are written otherwise.
///
/// What was read is an error of the completion if the file has changed: an IoError with ESTALE, or that of a file that
/// ended. Ranges are read into host memory.
class FileBackedExtents {
 public:
  /// From now on a range of an extent is those bytes of a file and then, up to its end, zeros. What was there is lost,
  /// and its space is given back where that can be; a later write to it may find the disk full.
  /// @param extent As it was placed; nothing of the range is under way but reads whose outcome nobody wants.
  /// @param offset, bytes The range: multiples of the tier's alignment. @param backing No more bytes than that, and at
  /// any offset.
  /// @throws ConfigurationError if the range is none of the extent's, or smaller than what it is to be.
  virtual void back(const Extent& extent, std::size_t offset, std::size_t bytes, BackedBytes backing) = 0;

  /// From now on a range of an extent is zeros, and keeps its space. @throws as `back`.
  virtual void clear(const Extent& extent, std::size_t offset, std::size_t bytes) = 0;

 protected:
  ~FileBackedExtents() = default;
};

}  // namespace zerospan::inline v0
