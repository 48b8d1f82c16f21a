/// @file
/// The files without a name that a process has open: what a test damages behind a tier's back.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

namespace zerospan_test {

/// @param process Its number, or "self".
/// @return paths by which the files can be opened that have no name in `directory`.
inline std::vector<std::string> unnamed_files(const std::string& process, const std::string& directory) {
  std::vector<std::string> found;
  std::error_code error;
  std::filesystem::directory_iterator entry{"/proc/" + process + "/fd", error};
  for (; !error && entry != std::filesystem::directory_iterator{}; entry.increment(error)) {
    const std::string target = std::filesystem::read_symlink(entry->path(), error).string();
    if (!error && target.starts_with(directory + "/") && target.ends_with(" (deleted)")) {
      found.push_back(entry->path().string());
    }
    error.clear();
  }
  return found;
}

/// Flips a bit in each 4096 bytes of a file. @return how many.
inline std::size_t flip_bits(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor == -1) return 0;
  std::size_t flipped = 0;
  unsigned char byte = 0;
  for (off_t at = 0; ::pread(descriptor, &byte, 1, at) == 1; at += 4096) {
    byte ^= 1U;
    if (::pwrite(descriptor, &byte, 1, at) == 1) ++flipped;
  }
  ::close(descriptor);
  return flipped;
}

}  // namespace zerospan_test
