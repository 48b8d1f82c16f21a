/// @file
/// Memory for the operands of peers.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Memory that grows to what was asked for at most, and is kept.
class MpiScratch {
 public:
  MpiScratch() noexcept = default;
  MpiScratch(MpiScratch&& other) noexcept : bytes_{std::move(other.bytes_)}, size_{std::exchange(other.size_, 0)} {}
  MpiScratch& operator=(MpiScratch&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  /// What was there before is lost.
  std::byte* at_least(std::size_t bytes) {
    if (bytes > size_) {
      bytes_.reset();
      size_ = 0;
      bytes_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      size_ = bytes;
    }
    return bytes_.get();
  }

  /// Leaves the memory to messages that may not have ended.
  void abandon() noexcept {
    static_cast<void>(bytes_.release());
    size_ = 0;
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_ = 0;
};

}  // namespace zerospan::inline v0::detail
