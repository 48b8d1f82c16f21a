/// @file
/// AlignedTier: a tier whose transfers are aligned more coarsely than this machine's disk demands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <zerospan/core/error.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan_test {

/// Passes everything on to another tier, which outlives it. @throws ConfigurationError for a transfer that is not
/// aligned.
template <zerospan::OffloadTier T>
class AlignedTier {
 public:
  AlignedTier(T& inner, std::size_t alignment) : inner_{&inner}, alignment_{alignment} {}

  std::string_view name() const { return inner_->name(); }
  std::size_t alignment() const { return alignment_; }
  zerospan::Addressable addressable() const { return inner_->addressable(); }
  void reserve(zerospan::Bytes bytes, std::string_view what) { inner_->reserve(bytes, what); }
  void cancel(zerospan::Bytes bytes) noexcept { inner_->cancel(bytes); }
  zerospan::Extent place(std::size_t bytes) { return inner_->place(bytes); }
  void remove(const zerospan::Extent& extent) noexcept { inner_->remove(extent); }
  std::byte* view(const zerospan::Extent& extent) { return inner_->view(extent); }
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    check(offset, data, bytes);
    return inner_->read(extent, offset, data, bytes);
  }
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes) {
    check(offset, data, bytes);
    return inner_->write(extent, offset, data, bytes);
  }
  zerospan::TierCounters counters() const { return inner_->counters(); }

 private:
  void check(std::size_t offset, const std::byte* data, std::size_t bytes) const {
    if ((offset | bytes | reinterpret_cast<std::uintptr_t>(data)) % alignment_ != 0) {
      zerospan::throw_configuration_error("a transfer is not aligned");
    }
  }

  T* inner_;
  std::size_t alignment_;
};

}  // namespace zerospan_test
