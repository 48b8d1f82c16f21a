/// @file
/// What tests of I/O need: a directory of their own, aligned buffers, and a count to wait for.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <span>
#include <stdexcept>
#include <string>

#include <stdlib.h>

namespace zerospan_test {

/// A directory with a unique name, removed with all it holds.
class ScratchDirectory {
 public:
  /// @param in In which it is made.
  explicit ScratchDirectory(const std::filesystem::path& in = std::filesystem::temp_directory_path())
      : path_{(in / "zerospan-test-XXXXXX").string()} {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error{"no scratch directory: " + path_};
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const noexcept { return path_; }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::string path_;
};

/// Bytes at a multiple of 4096, zero at first.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes)
      : data_{static_cast<std::byte*>(::operator new(bytes, alignment))}, bytes_{bytes} {
    std::memset(data_.get(), 0, bytes);
  }

  std::byte* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return bytes_; }
  std::span<std::byte> bytes() const noexcept { return {data(), size()}; }

  /// Sets all bytes to pseudo-random ones that depend on the seed alone.
  void fill(std::uint64_t seed) const {
    std::mt19937_64 random{seed};
    for (std::byte& byte : bytes()) byte = static_cast<std::byte>(random() & 0xff);
  }

  friend bool operator==(const AlignedBuffer& a, const AlignedBuffer& b) noexcept {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  }

 private:
  static constexpr std::align_val_t alignment{4096};
  struct Release {
    void operator()(std::byte* data) const noexcept { ::operator delete(data, alignment); }
  };
  std::unique_ptr<std::byte, Release> data_;
  std::size_t bytes_;
};

/// Waits until something has happened so many times.
class Countdown {
 public:
  explicit Countdown(std::size_t count) : count_{count} {}

  void hit() {
    const std::scoped_lock lock{mutex_};
    if (count_ == 0) throw std::logic_error{"more hits than were counted on"};
    --count_;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t count_;
};

}  // namespace zerospan_test
