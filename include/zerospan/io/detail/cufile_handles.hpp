/// @file
/// CufileHandles: files as cuFile knows them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include <cufile.h>

#include <zerospan/core/config.hpp>
#include <zerospan/io/cufile_error.hpp>

namespace zerospan::inline v0::detail {

/// A file's registration with cuFile; it ends with the object.
class CufileHandle {
 public:
  /// @throws CufileError if the file is none that cuFile can serve.
  explicit CufileHandle(int descriptor) {
    CUfileDescr_t description{};
    description.type = CU_FILE_HANDLE_TYPE_OPAQUE_FD;
    description.handle.fd = descriptor;
    check_cufile(::cuFileHandleRegister(&handle_, &description), "the registration of a file with cuFile");
  }
  CufileHandle(const CufileHandle&) = delete;
  CufileHandle& operator=(const CufileHandle&) = delete;
  ~CufileHandle() { ::cuFileHandleDeregister(handle_); }

  CUfileHandle_t get() const noexcept { return handle_; }

 private:
  CUfileHandle_t handle_{};
};

/// Registers each file when it is met first, and again where its descriptor has become another file's.
class CufileHandles {
 public:
  struct Found {
    std::shared_ptr<CufileHandle> handle;
    int error_number;  ///< Why there is none.
  };

  Found find(int descriptor) noexcept {
    Identity identity{};
    if (const int error_number = identify(descriptor, identity)) return {nullptr, error_number};
    try {
      const std::scoped_lock lock{mutex_};
      File& file = files_[descriptor];
      if (!file.handle || file.identity != identity) {
        file.handle.reset();
        file.handle = std::make_shared<CufileHandle>(descriptor);
        file.identity = identity;
      }
      return {file.handle, 0};
    } catch (const CufileError& error) {
      return {nullptr, errno_of(static_cast<CUfileOpError>(error.code()))};
    } catch (...) {
      return {nullptr, ENOMEM};
    }
  }

 private:
  /// Device, inode and time of birth: an inode's number is soon used again.
  using Identity = std::array<std::uint64_t, 5>;

  struct File {
    Identity identity;
    std::shared_ptr<CufileHandle> handle;
  };

  /// @return An errno, 0 if the file was identified.
  static int identify(int descriptor, Identity& identity) noexcept {
    struct statx status {};
    if (::statx(descriptor, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0) return errno;
    identity = {status.stx_dev_major, status.stx_dev_minor, status.stx_ino,
                static_cast<std::uint64_t>(status.stx_btime.tv_sec), status.stx_btime.tv_nsec};
    return 0;
  }

  std::mutex mutex_;
  std::map<int, File> files_;
};

}  // namespace zerospan::inline v0::detail
