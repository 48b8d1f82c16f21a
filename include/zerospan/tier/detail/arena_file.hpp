/// @file
/// ArenaFile: an unnamed file of a directory that grows by allocated space and vanishes with its descriptor.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// A file without a name: two jobs share a directory without meeting, and nothing is left after a crash. It is opened
/// with O_DIRECT where the file system allows it. Its bytes are allocated when it grows, so that a full disk is found
/// then.
class ArenaFile {
 public:
  /// How the file stays without a name.
  enum class Naming : std::uint8_t {
    never_named,       ///< O_TMPFILE, or `unlinked_at_once` on file systems without it.
    unlinked_at_once,  ///< A unique name that is gone before the constructor returns.
  };

  /// @throws ConfigurationError if `directory` is no path at all, IoError if no file can be made in it.
  explicit ArenaFile(const std::string& directory, Naming naming = Naming::never_named)
      : path_{checked_path(directory, "directory", "an NvmeTier") + "/(unnamed arena file)"},
        is_linkable_{naming == Naming::never_named},
        descriptor_{open_in(directory, naming, is_linkable_)} {
    const int flags = ::fcntl(descriptor_, F_GETFL);
    is_direct_ = flags != -1 && ::fcntl(descriptor_, F_SETFL, flags | O_DIRECT) == 0;
    alignment_ = direct_alignment(descriptor_);
  }

  ArenaFile(const ArenaFile&) = delete;
  ArenaFile& operator=(const ArenaFile&) = delete;
  ~ArenaFile() { ::close(descriptor_); }

  /// Makes the file `bytes` long, all of it allocated on the disk (blocking). Shorter than it is: nothing happens.
  /// @param purpose Names what the space is for in the error.
  /// @throws IoError (ENOSPC when the disk is full, EFBIG beyond the process's limit of file sizes); the file then is
  /// as long as before.
  void grow(std::uint64_t bytes, const std::string& purpose) {
    if (bytes > size_) allocate(size_, bytes - size_, purpose);
  }

  /// Makes sure that a range is allocated, in a file that has holes (blocking). The file is as long as its end, or
  /// longer.
  /// @throws as `grow`.
  void allocate(std::uint64_t offset, std::uint64_t bytes, const std::string& purpose) {
    const int error_number = allocate(offset, bytes);
    if (error_number != 0) {
      [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, static_cast<off_t>(size_));
      throw_io_error(error_number, "reservation for " + purpose, path_, offset, bytes);
    }
    size_ = std::max(size_, offset + bytes);
  }

  /// Makes the file `bytes` long, without allocating anything. @throws IoError
  void extend(std::uint64_t bytes) {
    if (bytes <= size_) return;
    if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
      throw_io_error(errno, "lengthening", path_, size_, bytes - size_);
    }
    size_ = bytes;
  }

  /// Gives the space of a range back, where the file system can; its content is undefined then.
  void punch(std::uint64_t offset, std::uint64_t bytes) noexcept {
    [[maybe_unused]] const int ignored = ::fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                     static_cast<off_t>(offset), static_cast<off_t>(bytes));
  }

  /// Whether the file may be given a name, as long as it never had one; and holes, which are allocated later.
  bool is_linkable() const noexcept { return is_linkable_; }

  /// Names that the file has by now.
  std::size_t names() const noexcept {
    struct stat status {};
    return ::fstat(descriptor_, &status) == 0 ? static_cast<std::size_t>(status.st_nlink) : 1;
  }

  int descriptor() const noexcept { return descriptor_; }
  std::uint64_t size() const noexcept { return size_; }

  /// What stands for a name in errors.
  const std::string& path() const noexcept { return path_; }

  /// What offsets, sizes and buffers of direct transfers are multiples of; 4096 where the system does not say.
  std::size_t alignment() const noexcept { return alignment_; }

  /// False where the file system refuses O_DIRECT, and transfers pass through the page cache.
  bool is_direct() const noexcept { return is_direct_; }

 private:
  static constexpr std::size_t page = 4096;

  /// @param is_linkable False is made of it where the file had a name once.
  static int open_in(const std::string& directory, Naming naming, bool& is_linkable) {
    constexpr unsigned owner_only = 0600;
    if (naming == Naming::never_named) {
      const int descriptor = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, owner_only);
      if (descriptor != -1) return descriptor;
      const bool is_unsupported = errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT;
      if (!is_unsupported) throw_io_error(errno, "opening an arena file", directory, 0, 0);
    }
    is_linkable = false;
    std::string path = directory + "/zerospan-XXXXXX";
    const int descriptor = ::mkostemp(path.data(), O_CLOEXEC);
    if (descriptor == -1) throw_io_error(errno, "opening an arena file", directory, 0, 0);
    ::unlink(path.c_str());
    return descriptor;
  }

  /// statx with STATX_DIOALIGN, which older systems neither declare nor answer.
  template <class Status = struct statx>
  static std::size_t direct_alignment(int descriptor) noexcept {
    if constexpr (requires(const Status& status) { status.stx_dio_mem_align; }) {
      constexpr unsigned statx_dioalign = 0x2000;
      Status status{};
      if (::statx(descriptor, "", AT_EMPTY_PATH, statx_dioalign, &status) == 0 &&
          (status.stx_mask & statx_dioalign) != 0 && status.stx_dio_offset_align != 0) {
        return std::max<std::size_t>(status.stx_dio_mem_align, status.stx_dio_offset_align);
      }
    }
    return page;
  }

  /// Allocates a range, by fallocate or by writing zeros. Returns an errno, 0 if it was done.
  int allocate(std::uint64_t offset, std::uint64_t bytes) noexcept {
    if (offset + bytes > largest_file()) return EFBIG;
    if (exceeds_disk(bytes)) return ENOSPC;
    while (::fallocate(descriptor_, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) {
      if (errno == EOPNOTSUPP) {
        is_linkable_ = false;
        return write_zeros(offset, bytes);
      }
      if (errno != EINTR) return errno;
    }
    return 0;
  }

  /// Bytes that a file of this process may have. Who passes a limit of the process is killed, unless it ignores
  /// SIGXFSZ.
  static std::uint64_t largest_file() noexcept {
    constexpr std::uint64_t largest = std::numeric_limits<off_t>::max();
    struct rlimit limit {};
    if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return largest;
    return std::min<std::uint64_t>(limit.rlim_cur, largest);
  }

  /// True if the disk cannot hold `bytes` more: fallocate would find out only after it had filled the disk.
  bool exceeds_disk(std::uint64_t bytes) const noexcept {
    struct statvfs status {};
    return ::fstatvfs(descriptor_, &status) == 0 && status.f_blocks != 0 &&
           bytes / std::max<std::uint64_t>(status.f_frsize, 1) > status.f_bfree;
  }

  int write_zeros(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    constexpr std::size_t chunk = std::size_t{1} << 20;
    const auto release = [](std::byte* data) { ::operator delete (data, std::align_val_t{page}); };
    const std::unique_ptr<std::byte, decltype(release)> zeros{
        static_cast<std::byte*>(::operator new (chunk, std::align_val_t{page}, std::nothrow)), release};
    if (!zeros) return ENOMEM;
    std::fill_n(zeros.get(), chunk, std::byte{0});
    while (bytes > 0) {
      const std::uint64_t part = std::min<std::uint64_t>(bytes, chunk);
      const ssize_t moved = ::pwrite(descriptor_, zeros.get(), part, static_cast<off_t>(offset));
      if (moved < 0 && errno != EINTR) return errno;
      if (moved == 0) return EIO;
      const std::uint64_t done = moved < 0 ? 0 : static_cast<std::uint64_t>(moved);
      offset += done;
      bytes -= done;
    }
    return 0;
  }

  std::string path_;
  bool is_linkable_;
  int descriptor_;
  bool is_direct_ = false;
  std::size_t alignment_ = page;
  std::uint64_t size_ = 0;
};

}  // namespace zerospan::inline v0::detail
