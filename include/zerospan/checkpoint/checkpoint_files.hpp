/// @file
/// CheckpointFiles: what checkpoints ask of a file system; FileSystem asks it of the system.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// The operations of which checkpoints are made. Each throws an IoError if the file system refuses it. May be called by
/// several threads at once.
class CheckpointFiles {
 public:
  /// A file that is written from its begin to its end. Its end closes it; what was not synced may not be in it.
  class Writer {
   public:
    Writer() = default;
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    virtual ~Writer() = default;

    /// Appends all of it.
    virtual void write(std::span<const std::byte> bytes) = 0;

    /// What was written is in the file, and durable. The file's name is not: that is its directory's.
    virtual void sync() = 0;
  };

  /// A file that is read anywhere.
  class Reader {
   public:
    Reader() = default;
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    virtual ~Reader() = default;

    virtual std::uint64_t size() const = 0;

    /// What is read from now on will not be read again: nobody needs to keep it.
    virtual void expect_one_reading() {}

    /// Reads all of `bytes`, from `offset` on.
    virtual void read(std::uint64_t offset, std::span<std::byte> bytes) = 0;
  };

  /// Holds a lock until its end.
  class Lock {
   public:
    Lock() = default;
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    virtual ~Lock() = default;
  };

  CheckpointFiles() = default;
  CheckpointFiles(const CheckpointFiles&) = delete;
  CheckpointFiles& operator=(const CheckpointFiles&) = delete;
  virtual ~CheckpointFiles() = default;

  /// A new file, or the one that is there, emptied.
  virtual std::unique_ptr<Writer> create(const std::string& path) = 0;

  /// @return nullptr if there is no such file.
  virtual std::unique_ptr<Reader> open(const std::string& path) = 0;

  /// Nothing happens if it is there.
  virtual void make_directory(const std::string& path) = 0;

  /// Whether a file that is open could have a name in a directory as well: both are on one file system, which lets it.
  /// @param descriptor Of a file that never had a name, or has one.
  virtual bool can_link([[maybe_unused]] int descriptor, [[maybe_unused]] const std::string& directory) {
    return false;
  }

  /// Gives a file that is open a name, which no file has. The name is its directory's; what is in the file is made
  /// durable by `sync_file`. @return false if it can have none, after all.
  virtual bool link([[maybe_unused]] int descriptor, [[maybe_unused]] const std::string& path) { return false; }

  /// What is in a file that was linked is durable.
  virtual void sync_file([[maybe_unused]] const std::string& path) {}

  /// What is in a directory. @return Nothing if there is no such directory.
  virtual std::vector<std::string> list(const std::string& path) = 0;

  /// Replaces `to`, at once.
  virtual void rename(const std::string& from, const std::string& to) = 0;

  /// What was made, renamed and removed in a directory is durable.
  virtual void sync_directory(const std::string& path) = 0;

  /// Removes a file, or an empty directory.
  virtual void remove(const std::string& path) = 0;

  /// Takes the lock that a file stands for, which is made if it is not there.
  /// @return nullptr if somebody else has it.
  virtual std::unique_ptr<Lock> lock(const std::string& path) = 0;
};

/// The file system of this host. Files are written, and what is read once is read, by direct I/O where it allows that:
/// what nobody reads again for a while has no place in the page cache, and does not pass through it. Locks are those of
/// flock(2): they end with their process, however it ends. Of one that is killed, children that it had forked meanwhile
/// still hold them, until they end or execute another program.
class FileSystem final : public CheckpointFiles {
 public:
  std::unique_ptr<Writer> create(const std::string& path) override {
    constexpr int flags = O_WRONLY | O_CREAT | O_TRUNC;
    try {
      return std::make_unique<FileWriter>(Descriptor{path, flags | O_DIRECT, "making a file"}, true);
    } catch (const IoError& error) {
      if (error.code().value() != EINVAL) throw;
      return std::make_unique<FileWriter>(Descriptor{path, flags, "making a file"}, false);
    }
  }

  std::unique_ptr<Reader> open(const std::string& path) override {
    try {
      return std::make_unique<FileReader>(Descriptor{path, O_RDONLY, "opening a file"});
    } catch (const IoError& error) {
      if (error.code().value() == ENOENT) return nullptr;
      throw;
    }
  }

  void make_directory(const std::string& path) override {
    constexpr ::mode_t everybody = 0777;  // less the process's umask
    if (::mkdir(path.c_str(), everybody) == 0) return;
    const int error_number = errno;
    struct stat status {};
    const bool is_there = error_number == EEXIST && ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    if (!is_there) throw_io_error(error_number, "making a directory", path, 0, 0);
  }

  bool can_link(int descriptor, const std::string& directory) override {
    struct stat file {};
    struct stat status {};
    return ::fstat(descriptor, &file) == 0 && ::stat(directory.c_str(), &status) == 0 && file.st_dev == status.st_dev;
  }

  /// Who may read and write in the directory may read and write the file.
  bool link(int descriptor, const std::string& path) override {
    struct stat status {};
    const std::string directory = path.substr(0, path.find_last_of('/') + 1);
    constexpr ::mode_t may_read_and_write = 0666;
    if (::stat(directory.c_str(), &status) != 0 || ::fchmod(descriptor, status.st_mode & may_read_and_write) != 0) {
      throw_io_error(errno, "the rights to a file", path, 0, 0);
    }
    const std::string open_file = "/proc/self/fd/" + std::to_string(descriptor);
    if (::linkat(AT_FDCWD, open_file.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) return true;
    // The file system has no links, is another one after all, or the file lost its last name before.
    const int refusals[]{EXDEV, EPERM, EOPNOTSUPP, ENOSYS, EMLINK, ENOENT};
    if (std::ranges::find(refusals, errno) == std::end(refusals)) throw_io_error(errno, "linking a file", path, 0, 0);
    return false;
  }

  void sync_file(const std::string& path) override { Descriptor{path, O_RDONLY, "opening a file"}.sync(); }

  std::vector<std::string> list(const std::string& path) override {
    struct Close {
      void operator()(::DIR* directory) const noexcept { ::closedir(directory); }
    };
    const std::unique_ptr<::DIR, Close> directory{::opendir(path.c_str())};
    if (!directory) {
      if (errno == ENOENT) return {};
      throw_io_error(errno, "listing a directory", path, 0, 0);
    }
    std::vector<std::string> names;
    while (true) {
      errno = 0;
      const ::dirent* const entry = ::readdir(directory.get());
      if (!entry && errno != 0) throw_io_error(errno, "listing a directory", path, 0, 0);
      if (!entry) return names;
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
  }

  void rename(const std::string& from, const std::string& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0) throw_io_error(errno, "renaming " + from, to, 0, 0);
  }

  void sync_directory(const std::string& path) override {
    Descriptor{path, O_RDONLY | O_DIRECTORY, "opening a directory"}.sync();
  }

  void remove(const std::string& path) override {
    if (std::remove(path.c_str()) != 0) throw_io_error(errno, "removing a file", path, 0, 0);
  }

  std::unique_ptr<Lock> lock(const std::string& path) override {
    Descriptor file{path, O_RDWR | O_CREAT, "opening a lock"};
    while (::flock(file.number(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return nullptr;
      if (errno != EINTR) throw_io_error(errno, "locking", path, 0, 0);
    }
    return std::make_unique<FileLock>(std::move(file));
  }

 private:
  class Descriptor {
   public:
    Descriptor(std::string path, int flags, const char* purpose) : path_{std::move(path)} {
      constexpr unsigned everybody = 0666;
      do {
        number_ = ::open(path_.c_str(), flags | O_CLOEXEC, everybody);
      } while (number_ == -1 && errno == EINTR);
      if (number_ == -1) throw_io_error(errno, purpose, path_, 0, 0);
    }
    Descriptor(Descriptor&& other) noexcept
        : path_{std::move(other.path_)}, number_{std::exchange(other.number_, -1)} {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor() {
      if (number_ != -1) ::close(number_);
    }

    const std::string& path() const noexcept { return path_; }
    int number() const noexcept { return number_; }

    void sync() const {
      while (::fsync(number_) != 0) {
        if (errno != EINTR) throw_io_error(errno, "fsync", path_, 0, 0);
      }
    }

   private:
    std::string path_;
    int number_ = -1;
  };

  static constexpr std::size_t block = 4096;  ///< Of direct I/O: a multiple of what disks demand.

  static bool is_aligned(const std::byte* data) noexcept { return std::bit_cast<std::uintptr_t>(data) % block == 0; }

  /// Writes whole blocks by direct I/O, from where they are if they are aligned there, else from a buffer, in which the
  /// rest waits for `sync`, and is written through the page cache.
  class FileWriter final : public Writer {
   public:
    FileWriter(Descriptor file, bool is_direct) : file_{std::move(file)}, is_direct_{is_direct} {}

    void write(std::span<const std::byte> bytes) override {
      while (!bytes.empty()) {
        if (!is_direct_) return write_through(bytes);
        std::size_t taken = bytes.size() / block * block;
        if (filled_ == 0 && taken > 0 && is_aligned(bytes.data())) {
          write_through(bytes.first(taken));
        } else {
          taken = fill(bytes);
        }
        bytes = bytes.subspan(taken);
      }
    }

    void sync() override {
      if (is_direct_) write_rest();
      file_.sync();
    }

   private:
    static constexpr std::size_t buffer_bytes = std::size_t{1} << 20;

    struct FreeBuffer {
      void operator()(std::byte* memory) const noexcept { ::operator delete(memory, std::align_val_t{block}); }
    };

    /// @return How many bytes the buffer has taken; it is written when it is full.
    std::size_t fill(std::span<const std::byte> bytes) {
      if (!buffer_) {
        buffer_.reset(static_cast<std::byte*>(::operator new(buffer_bytes, std::align_val_t{block})));
      }
      const std::size_t taken = std::min(bytes.size(), buffer_bytes - filled_);
      std::memcpy(buffer_.get() + filled_, bytes.data(), taken);
      filled_ += taken;
      if (filled_ == buffer_bytes) {
        filled_ = 0;
        write_through({buffer_.get(), buffer_bytes});
      }
      return taken;
    }

    void write_rest() {
      end_direct();
      write_through({buffer_.get(), std::exchange(filled_, 0)});
    }

    void end_direct() {
      const int flags = ::fcntl(file_.number(), F_GETFL);
      if (flags == -1 || ::fcntl(file_.number(), F_SETFL, flags & ~O_DIRECT) == -1) {
        throw_io_error(errno, "fcntl", file_.path(), written_, 0);
      }
      is_direct_ = false;
    }

    void write_through(std::span<const std::byte> bytes) {
      while (!bytes.empty()) {
        const ::ssize_t moved = ::write(file_.number(), bytes.data(), bytes.size());
        if (moved == -1 && errno == EINTR) continue;
        if (moved == -1 && errno == EINVAL && is_direct_) {  // the disk demands more than that, or a write fell short
          end_direct();
          continue;
        }
        if (moved <= 0) throw_io_error(moved == 0 ? EIO : errno, "write", file_.path(), written_, bytes.size());
        bytes = bytes.subspan(static_cast<std::size_t>(moved));
        written_ += static_cast<std::uint64_t>(moved);
      }
    }

    Descriptor file_;
    bool is_direct_;
    std::unique_ptr<std::byte, FreeBuffer> buffer_;
    std::size_t filled_ = 0;
    std::uint64_t written_ = 0;
  };

  /// Where one reading is expected, reads whole blocks by direct I/O, if they are aligned in the file and in memory;
  /// everything else through the page cache.
  class FileReader final : public Reader {
   public:
    explicit FileReader(Descriptor file) : file_{std::move(file)} {
      struct stat status {};
      if (::fstat(file_.number(), &status) != 0) throw_io_error(errno, "fstat", file_.path(), 0, 0);
      if (S_ISDIR(status.st_mode)) throw_io_error(EISDIR, "opening a file", file_.path(), 0, 0);
      size_ = static_cast<std::uint64_t>(status.st_size);
    }

    std::uint64_t size() const override { return size_; }

    void expect_one_reading() override {
      try {
        direct_.emplace(file_.path(), O_RDONLY | O_DIRECT, "opening a file");
      } catch (const IoError& error) {
        if (error.code().value() != EINVAL) throw;
      }
    }

    void read(std::uint64_t offset, std::span<std::byte> bytes) override {
      while (!bytes.empty()) {
        const bool is_direct = direct_ && bytes.size() >= block && offset % block == 0 && is_aligned(bytes.data());
        const std::size_t wanted = is_direct ? bytes.size() / block * block : bytes.size();
        const ::ssize_t moved =
            ::pread((is_direct ? *direct_ : file_).number(), bytes.data(), wanted, static_cast<::off_t>(offset));
        if (moved == -1 && errno == EINTR) continue;
        if (moved == -1 && errno == EINVAL && is_direct) {  // the disk demands more than that
          direct_.reset();
          continue;
        }
        if (moved <= 0) throw_io_error(moved == 0 ? EIO : errno, "read", file_.path(), offset, bytes.size());
        bytes = bytes.subspan(static_cast<std::size_t>(moved));
        offset += static_cast<std::uint64_t>(moved);
      }
    }

   private:
    Descriptor file_;
    std::optional<Descriptor> direct_;  ///< The same file, where the file system has direct I/O.
    std::uint64_t size_ = 0;
  };

  /// Its end unlocks the file, which a child process may still have open. The child's copy does not.
  class FileLock final : public Lock {
   public:
    explicit FileLock(Descriptor file) : file_{std::move(file)} {}
    ~FileLock() override {
      if (process_.is_this()) ::flock(file_.number(), LOCK_UN);
    }

   private:
    detail::OwnProcess process_;
    Descriptor file_;
  };
};

}  // namespace zerospan::inline v0
