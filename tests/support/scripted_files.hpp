/// @file
/// Calls on files that fail, or do less than they were asked, when a test says so.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/interchange/detail/posix_files.hpp>

namespace zerospan_test {

/// What befalls the calls that share it.
struct FileScript {
  int failing = -1;                                    ///< The call that fails, counted from 0.
  int error_number = EIO;                              ///< How.
  std::size_t longest = static_cast<std::size_t>(-1);  ///< Bytes that a transfer moves at most.
  int interruptions = 0;                               ///< Before each call.
  std::function<void(const std::string& call)> before = [](const std::string&) {};

  std::vector<std::string> calls{};  ///< Carried out or failed, in order.
};

/// As detail::PosixFiles, but for what the script says.
class ScriptedFiles {
 public:
  explicit ScriptedFiles(FileScript& script) : script_{&script} {}

  int open(const std::string& path, int flags) const {
    return call("open", [&] { return system_.open(path, flags); });
  }
  void close(int descriptor) const { system_.close(descriptor); }
  template <class File>
  int status(const File& file, zerospan::detail::FileStatus& status) const {
    return call("status", [&] { return system_.status(file, status); });
  }
  std::int64_t read(int descriptor, std::span<std::byte> data, std::uint64_t offset) const {
    return call("read", [&] { return system_.read(descriptor, shortened(data), offset); });
  }
  std::int64_t write(int descriptor, std::span<const std::byte> data, std::uint64_t offset) const {
    return call("write", [&] { return system_.write(descriptor, shortened(data), offset); });
  }
  int resize(int descriptor, std::uint64_t bytes) const {
    return call("resize", [&] { return system_.resize(descriptor, bytes); });
  }
  int lock(int descriptor) const {
    return call("lock", [&] { return system_.lock(descriptor); });
  }
  int synchronize(int descriptor) const {
    return call("synchronize", [&] { return system_.synchronize(descriptor); });
  }
  int rename(const std::string& from, const std::string& to) const {
    return call("rename", [&] { return system_.rename(from, to); });
  }
  int remove(const std::string& path) const { return system_.remove(path); }

 private:
  template <class Act>
  auto call(const std::string& name, Act act) const -> decltype(act()) {
    if (interrupted_ < script_->interruptions) {
      ++interrupted_;
      return -EINTR;
    }
    interrupted_ = 0;
    const int number = static_cast<int>(script_->calls.size());
    script_->calls.push_back(name);
    script_->before(name);
    if (number == script_->failing) return -script_->error_number;
    return act();
  }

  template <class Byte>
  std::span<Byte> shortened(std::span<Byte> data) const {
    return data.first(std::min(data.size(), script_->longest));
  }

  FileScript* script_;
  zerospan::detail::PosixFiles system_;
  mutable int interrupted_ = 0;
};

}  // namespace zerospan_test
