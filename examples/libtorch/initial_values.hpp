/// @file
/// A place for a module's initial values until the engine takes them.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>

#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>

namespace zerospan_torch {

/// Values on disk, in a temporary file without a name: not in memory, however many modules are wrapped before the first
/// gather, when the engine fills its parameters.
class InitialValues {
 public:
  /// @throws zerospan::IoError if there is no temporary file, or no space for it.
  void append(std::span<const float> values) {
    if (!file_) file_.reset(std::tmpfile());
    if (!file_ || std::fwrite(values.data(), sizeof(float), values.size(), file_.get()) != values.size() ||
        std::fflush(file_.get()) != 0) {
      zerospan::throw_io_error(errno, "write", name, count_ * sizeof(float), values.size_bytes());
    }
    count_ += values.size();
  }

  std::uint64_t count() const { return count_; }

  /// Fills `values` with those from number `first` on.
  void read(std::uint64_t first, std::span<float> values) const {
    std::uint64_t offset = first * sizeof(float);
    for (auto rest = std::as_writable_bytes(values); !rest.empty();) {
      const ::ssize_t bytes = ::pread(::fileno(file_.get()), rest.data(), rest.size(), static_cast<::off_t>(offset));
      if (bytes <= 0) zerospan::throw_io_error(bytes < 0 ? errno : EIO, "read", name, offset, rest.size());
      rest = rest.subspan(static_cast<std::size_t>(bytes));
      offset += static_cast<std::uint64_t>(bytes);
    }
  }

  /// Nothing will be read again.
  void drop() { file_.reset(); }

 private:
  static constexpr const char* name = "a temporary file of initial values";
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
  std::uint64_t count_ = 0;
};

/// The values from number `first` on.
inline zerospan::Initializer initializer(std::shared_ptr<const InitialValues> values, std::uint64_t first) {
  return [values = std::move(values), first](const zerospan::InitializerContext&, std::uint64_t element,
                                             std::span<float> target) { values->read(first + element, target); };
}

}  // namespace zerospan_torch
