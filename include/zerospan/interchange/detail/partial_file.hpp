/// @file
/// PartialFile: a file that has its name only when it is complete.
#pragma once

#include <fcntl.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/posix_files.hpp>

namespace zerospan::inline v0::detail {

/// A file under a temporary name, `path` and ".partial", that several processes may write into. One has created it,
/// holds its lock, removes it if it is not published, and publishes it. The copy that a child process has does nothing
/// at its end.
template <class Files>
class PartialFile {
 public:
  enum class Opening : std::uint8_t { creates, joins };

  /// Creates an empty file, also where one was left behind by a process that was killed; or opens one that was created.
  /// @throws IoError; EWOULDBLOCK where somebody else is writing the file, ENOENT where nobody created it.
  PartialFile(const Files& files, std::string path, Opening opening)
      : path_{std::move(path)}, file_{opened(files, path_, opening)}, is_owner_{opening == Opening::creates} {}

  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (is_owner_ && process_.is_this()) file_.files().remove(file_.path());
  }

  const std::string& path() const noexcept { return path_; }
  const OpenFile<Files>& file() const noexcept { return file_; }

  /// Gives it its name, in place of a file that has it. @throws IoError
  void publish() {
    const int result = uninterrupted([&] { return file_.files().rename(file_.path(), path_); });
    if (result < 0) throw_io_error(-result, "renaming " + file_.path(), path_, 0, 0);
    is_owner_ = false;
  }

  /// Removes it again, where it was published.
  void withdraw() const noexcept {
    if (!is_owner_) file_.files().remove(path_);
  }

 private:
  static OpenFile<Files> opened(const Files& files, const std::string& path, Opening opening) {
    const std::string temporary = path + ".partial";
    constexpr int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK;
    if (opening == Opening::joins) return open_file(files, temporary, flags, "joining in the writing of " + path);
    const std::string purpose = "creating " + path;
    constexpr int attempts = 100;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      int opened = uninterrupted([&] { return files.open(temporary, flags | O_CREAT | O_EXCL); });
      const bool is_new = opened != -EEXIST;
      if (!is_new) opened = uninterrupted([&] { return files.open(temporary, flags); });
      if (opened == -ENOENT && !is_new) continue;
      OpenFile<Files> file{files, temporary, opened, purpose};
      try {
        if (!file.lock()) break;
        // Before it was locked its owner may have renamed or removed it: then it must not be touched.
        FileStatus named;
        const int result = uninterrupted([&] { return files.status(temporary, named); });
        if (result < 0 && result != -ENOENT) throw_io_error(-result, purpose, temporary, 0, 0);
        if (result == 0 && named.identity == file.status().identity) return file;
      } catch (const IoError&) {
        if (is_new) files.remove(temporary);
        throw;
      }
    }
    throw_io_error(EWOULDBLOCK, purpose + ", which somebody else is writing,", temporary, 0, 0);
  }

  OwnProcess process_;
  std::string path_;
  OpenFile<Files> file_;
  bool is_owner_;
};

}  // namespace zerospan::inline v0::detail
