/// @file
/// What a disk reads and writes by plain requests.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>

namespace large {

/// A file without a name, which is gone however the program ends. All of its size is set aside, and written once: the
/// first write of a range costs more. Its requests are blocking ones of threads, past the cache where that is possible.
class RawFile {
 public:
  static constexpr std::size_t block = std::size_t{1} << 20;

  /// @param bytes Rounded up to whole blocks.
  RawFile(std::string directory, std::uint64_t bytes) : directory_{std::move(directory)}, blocks_{blocks_of(bytes)} {
    descriptor_ = ::open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
    if (descriptor_ == -1) descriptor_ = ::open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (descriptor_ == -1) zerospan::throw_io_error(errno, "making a file", directory_, 0, 0);
    const int error = ::posix_fallocate(descriptor_, 0, static_cast<::off_t>(blocks_ * block));
    if (error != 0) {
      ::close(descriptor_);
      zerospan::throw_io_error(error, "setting aside a file", directory_, 0, blocks_ * block);
    }
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  ~RawFile() { ::close(descriptor_); }

  /// Writes all of it. @return Bytes a second.
  double write_all() { return move({false, 0, blocks_}, {}); }

  /// Reads all of it.
  double read_all() { return move({true, 0, blocks_}, {}); }

  /// Reads one half while it writes the other. @return Bytes a second, each way.
  double read_and_write_halves() { return move({true, 0, blocks_ / 2}, {false, blocks_ / 2, blocks_ / 2}) / 2; }

 private:
  static constexpr std::size_t threads_each_way = 8;

  /// Requests of one direction.
  struct Stream {
    bool reads = false;
    std::size_t first = 0;
    std::size_t blocks = 0;
  };

  static std::size_t blocks_of(std::uint64_t bytes) { return 2 * zerospan::round_up((bytes + 1) / 2, block) / block; }

  /// @return Bytes of both a second.
  double move(Stream a, Stream b) {
    const auto memory = zerospan::detail::map_huge_pages(zerospan::Bytes{2 * threads_each_way * block});
    for (std::size_t i = 0; i < 2 * threads_each_way * block; i += 8) memory.get()[i] = static_cast<std::byte>(i >> 3);
    std::atomic<int> error = 0;
    std::atomic<std::size_t> next_of_a = 0;
    std::atomic<std::size_t> next_of_b = 0;
    const auto begin = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> workers;
      const auto start = [&](Stream stream, std::atomic<std::size_t>& next) {
        for (std::size_t i = 0; i < threads_each_way && stream.blocks > 0; ++i) {
          std::byte* const data = memory.get() + workers.size() * block;
          workers.emplace_back([this, stream, &next, &error, data] {
            for (std::size_t n = next++; n < stream.blocks && error == 0; n = next++) {
              move_block(stream.reads, stream.first + n, data, error);
            }
          });
        }
      };
      start(a, next_of_a);
      start(b, next_of_b);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (error != 0) zerospan::throw_io_error(error, "measuring the disk", directory_, 0, blocks_ * block);
    return static_cast<double>((a.blocks + b.blocks) * block) / seconds;
  }

  void move_block(bool reads, std::size_t n, std::byte* data, std::atomic<int>& error) const {
    for (std::size_t done = 0; done < block;) {
      const auto offset = static_cast<::off_t>(n * block + done);
      const ::ssize_t moved = reads ? ::pread(descriptor_, data + done, block - done, offset)
                                    : ::pwrite(descriptor_, data + done, block - done, offset);
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0) {
        error = moved < 0 ? errno : EIO;
        return;
      }
      done += static_cast<std::size_t>(moved);
    }
  }

  std::string directory_;
  std::size_t blocks_;
  int descriptor_ = -1;
};

}  // namespace large
