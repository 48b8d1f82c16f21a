/// @file
/// RawFile: where the plain loops of benchmarks read and write.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace bench {

/// A file without a name in the working directory, allocated, opened for direct I/O where that is possible.
class RawFile {
 public:
  /// @throws std::runtime_error if it cannot be had.
  explicit RawFile(std::size_t bytes) : descriptor_{::open(".", O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600)} {
    if (descriptor_ == -1) descriptor_ = ::open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (descriptor_ == -1 || ::fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes)) != 0) {
      throw std::runtime_error{"no file of " + std::to_string(bytes) + " bytes in the working directory"};
    }
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  ~RawFile() { ::close(descriptor_); }

  int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace bench
