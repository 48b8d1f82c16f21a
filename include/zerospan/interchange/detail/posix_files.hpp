/// @file
/// The system's calls on files, and a file that is open by them.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/tier/file_backed_extents.hpp>

namespace zerospan::inline v0::detail {

/// What is known of a file without reading it.
struct FileStatus {
  enum class Kind : std::uint8_t { regular, directory, other };
  Kind kind = Kind::other;
  std::uint64_t bytes = 0;
  FileVersion version{};
  std::pair<std::uint64_t, std::uint64_t> identity{};  ///< Equal for two names of one file.
};

/// The calls as the system has them: each returns a negative errno where it fails, and may be interrupted (EINTR) or do
/// a part of what it was asked for.
struct PosixFiles {
  int open(const std::string& path, int flags) const noexcept {
    constexpr unsigned readable_by_all = 0666;
    return result(::open(path.c_str(), flags | O_CLOEXEC, readable_by_all));
  }
  void close(int descriptor) const noexcept { ::close(descriptor); }
  int status(int descriptor, FileStatus& status) const noexcept {
    struct stat system {};
    const int error = result(::fstat(descriptor, &system));
    status = from(system);
    return error;
  }
  int status(const std::string& path, FileStatus& status) const noexcept {
    struct stat system {};
    const int error = result(::stat(path.c_str(), &system));
    status = from(system);
    return error;
  }
  std::int64_t read(int descriptor, std::span<std::byte> data, std::uint64_t offset) const noexcept {
    const ssize_t moved = ::pread(descriptor, data.data(), data.size(), static_cast<off_t>(offset));
    return moved < 0 ? -errno : moved;
  }
  std::int64_t write(int descriptor, std::span<const std::byte> data, std::uint64_t offset) const noexcept {
    const ssize_t moved = ::pwrite(descriptor, data.data(), data.size(), static_cast<off_t>(offset));
    return moved < 0 ? -errno : moved;
  }
  /// Makes the file empty, then so long, with its space allocated where the file system can. Beyond the process's limit
  /// of file sizes the system would end the process: that is told as EFBIG.
  int resize(int descriptor, std::uint64_t bytes) const noexcept {
    struct rlimit limit {};
    if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur) return -EFBIG;
    if (::ftruncate(descriptor, 0) != 0) return -errno;
    const auto length = static_cast<off_t>(bytes);
    if (bytes == 0 || ::fallocate(descriptor, 0, 0, length) == 0) return 0;
    return errno == EOPNOTSUPP ? result(::ftruncate(descriptor, length)) : -errno;
  }
  /// Takes the file for this descriptor alone; EWOULDBLOCK where another one has it.
  int lock(int descriptor) const noexcept { return result(::flock(descriptor, LOCK_EX | LOCK_NB)); }
  int synchronize(int descriptor) const noexcept { return result(::fsync(descriptor)); }
  int rename(const std::string& from, const std::string& to) const noexcept {
    return result(::rename(from.c_str(), to.c_str()));
  }
  int remove(const std::string& path) const noexcept { return result(::unlink(path.c_str())); }

 private:
  static int result(int value) noexcept { return value < 0 ? -errno : value; }
  static FileStatus from(const struct stat& status) noexcept {
    FileStatus known{};
    if (S_ISREG(status.st_mode)) known.kind = FileStatus::Kind::regular;
    if (S_ISDIR(status.st_mode)) known.kind = FileStatus::Kind::directory;
    known.bytes = static_cast<std::uint64_t>(status.st_size);
    known.version = FileVersion::of(status);
    known.identity = {status.st_dev, status.st_ino};
    return known;
  }
};

/// `call()`, again while it is interrupted.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result == -EINTR) result = call();
  return result;
}

/// An open file; its calls are carried through however the system divides them.
template <class Files>
class OpenFile {
 public:
  /// @param opened What `Files::open` has returned.
  /// @param purpose Names the call in errors: "opening a safetensors file".
  /// @throws IoError where it was not opened.
  OpenFile(Files files, std::string path, int opened, const std::string& purpose)
      : files_{std::move(files)}, path_{std::move(path)}, descriptor_{opened} {
    if (descriptor_ < 0) throw_io_error(-descriptor_, purpose, path_, 0, 0);
  }
  OpenFile(OpenFile&& other) noexcept
      : files_{other.files_}, path_{std::move(other.path_)}, descriptor_{std::exchange(other.descriptor_, -1)} {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) files_.close(descriptor_);
  }

  const std::string& path() const noexcept { return path_; }
  int descriptor() const noexcept { return descriptor_; }
  const Files& files() const noexcept { return files_; }

  /// @throws IoError
  FileStatus status() const {
    FileStatus status;
    check(uninterrupted([&] { return files_.status(descriptor_, status); }), "looking", 0, 0);
    return status;
  }

  /// Reads until `data` is full or the file ends. @return The bytes read. @throws IoError
  std::size_t read(std::span<std::byte> data, std::uint64_t offset) const {
    std::size_t done = 0;
    while (done < data.size()) {
      const std::span<std::byte> rest = data.subspan(done);
      const std::int64_t moved = uninterrupted([&] { return files_.read(descriptor_, rest, offset + done); });
      check(moved, "read", offset + done, rest.size());
      if (moved == 0) break;
      done += static_cast<std::size_t>(moved);
    }
    return done;
  }

  /// @throws IoError
  void write(std::span<const std::byte> data, std::uint64_t offset) const {
    while (!data.empty()) {
      const std::int64_t moved = uninterrupted([&] { return files_.write(descriptor_, data, offset); });
      check(moved == 0 ? -EIO : moved, "write", offset, data.size());
      data = data.subspan(static_cast<std::size_t>(moved));
      offset += static_cast<std::uint64_t>(moved);
    }
  }

  /// @throws IoError
  void resize(std::uint64_t bytes) const {
    check(uninterrupted([&] { return files_.resize(descriptor_, bytes); }), "reservation", 0, bytes);
  }

  /// Takes the file for this descriptor; where the file system has no locks, for all.
  /// @return Whether no other descriptor has it. @throws IoError
  bool lock() const {
    const int result = uninterrupted([&] { return files_.lock(descriptor_); });
    if (result == -EWOULDBLOCK) return false;
    const bool is_unsupported = result == -ENOSYS || result == -EOPNOTSUPP || result == -ENOLCK;
    if (!is_unsupported) check(result, "locking", 0, 0);
    return true;
  }

  /// Returns when the disk has what was written. @throws IoError
  void synchronize() const {
    check(uninterrupted([&] { return files_.synchronize(descriptor_); }), "synchronization", 0, 0);
  }

 private:
  void check(std::int64_t result, const char* operation, std::uint64_t offset, std::size_t bytes) const {
    if (result < 0) throw_io_error(static_cast<int>(-result), operation, path_, offset, bytes);
  }

  Files files_;
  std::string path_;
  int descriptor_;
};

/// @param flags Of open(2). @throws IoError
template <class Files>
OpenFile<Files> open_file(Files files, std::string path, int flags, const std::string& purpose) {
  const int opened = uninterrupted([&] { return files.open(path, flags); });
  return {std::move(files), std::move(path), opened, purpose};
}

}  // namespace zerospan::inline v0::detail
