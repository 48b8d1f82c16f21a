/// @file
/// File systems that a test mounts for itself: nobody else sees them, and they end with the test. For root on Linux.
#pragma once

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace zerospan_test {

/// What the machine, or its owner, does not permit a test to arrange.
class NotPermitted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  /// @param what What failed, `errno` says why.
  static NotPermitted because_of_errno(const std::string& what) {
    return NotPermitted{what + ": " + std::generic_category().message(errno)};
  }
};

/// From now on what the calling thread mounts is seen by it, and by the threads that it starts, alone.
/// @throws NotPermitted
inline void enter_own_mounts() {
  if (::unshare(CLONE_NEWNS) != 0) throw NotPermitted::because_of_errno("a mount namespace");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    throw NotPermitted::because_of_errno("mounts of its own");
  }
}

struct MountOptions {
  std::string source = "none";
  std::string type = "tmpfs";
  unsigned long flags = 0;
  std::string data{};
};

/// A file system at a directory, until the object ends.
class Mount {
 public:
  /// @throws NotPermitted
  Mount(std::string directory, const MountOptions& options) : directory_{std::move(directory)} {
    if (::mount(options.source.c_str(), directory_.c_str(), options.type.c_str(), options.flags,
                options.data.c_str()) != 0) {
      throw NotPermitted::because_of_errno("mounting " + options.type);
    }
  }
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  ~Mount() { detach(); }

  const std::string& directory() const noexcept { return directory_; }

  /// The directory is what it was; files that are open stay.
  void detach() noexcept {
    if (is_there_) ::umount2(directory_.c_str(), MNT_DETACH);
    is_there_ = false;
  }

 private:
  std::string directory_;
  bool is_there_ = true;
};

/// A file as a disk, until the object and what is mounted from it end.
class LoopDisk {
 public:
  /// @param file Is made, of so many bytes, none of which is allocated.
  /// @param sector Bytes: 512 or 4096.
  /// @throws NotPermitted
  LoopDisk(const std::string& file, std::size_t bytes, std::uint32_t sector) {
    const int backing = ::open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (backing == -1) throw std::system_error{errno, std::generic_category(), file};
    const bool is_done = ::ftruncate(backing, static_cast<off_t>(bytes)) == 0 && attach(backing, sector);
    ::close(backing);
    if (!is_done) throw NotPermitted::because_of_errno("a loop device");
  }
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;
  ~LoopDisk() { ::close(descriptor_); }

  const std::string& path() const noexcept { return path_; }

 private:
  /// Another process may take a free device before this one does.
  bool attach(int backing, std::uint32_t sector) {
    const int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    for (int attempt = 0; control != -1 && descriptor_ == -1 && attempt < 100; ++attempt) {
      path_ = "/dev/loop" + std::to_string(::ioctl(control, LOOP_CTL_GET_FREE));
      descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
      if (descriptor_ == -1) break;
      ::loop_config setting{};
      setting.fd = static_cast<std::uint32_t>(backing);
      setting.block_size = sector;
      setting.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (::ioctl(descriptor_, LOOP_CONFIGURE, &setting) != 0) {
        const int error_number = errno;
        ::close(std::exchange(descriptor_, -1));
        errno = error_number;
        if (error_number != EBUSY) break;
      }
    }
    const int error_number = errno;
    if (control != -1) ::close(control);
    errno = error_number;
    return descriptor_ != -1;
  }

  std::string path_;
  int descriptor_ = -1;
};

/// An ext4 file system on a disk. @param features As mkfs.ext4 takes them. @throws NotPermitted
inline void make_ext4(const LoopDisk& disk, const std::string& features = "^has_journal") {
  const std::string command = "PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -b 4096 -O " + features + " " + disk.path() +
                              " >/dev/null 2>&1";
  if (std::system(command.c_str()) != 0) throw NotPermitted{"mkfs.ext4 failed"};
}

}  // namespace zerospan_test
