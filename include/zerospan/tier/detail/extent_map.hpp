/// @file
/// ExtentMap: which ranges of a file are dealt out. First fit, so that offsets depend on the order of the calls alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// The extents of an unbounded range of bytes. Not synchronized.
class ExtentMap {
 public:
  /// The lowest offset at which `bytes` are free.
  std::uint64_t first_fit(std::size_t bytes) const noexcept {
    std::uint64_t begin = 0;
    for (const auto& [offset, taken] : taken_) {
      if (offset - begin >= bytes) break;
      begin = offset + taken;
    }
    return begin;
  }

  /// Takes an extent that is free.
  void insert(const Extent& extent) {
    taken_.emplace(extent.offset, extent.bytes);
    used_ += extent.bytes;
    peak_ = std::max(peak_, used_);
  }

  /// Frees an extent; one that was not taken as it is remains as it is.
  void erase(const Extent& extent) noexcept {
    const auto found = taken_.find(extent.offset);
    if (found == taken_.end() || found->second != extent.bytes) return;
    taken_.erase(found);
    used_ -= extent.bytes;
  }

  /// True if the range lies within one extent that is taken.
  bool contains(const Extent& extent) const noexcept {
    const auto next = taken_.upper_bound(extent.offset);
    if (next == taken_.begin()) return false;
    const auto& [offset, bytes] = *std::prev(next);
    const std::uint64_t within = extent.offset - offset;
    return within < bytes && extent.bytes <= bytes - within;
  }

  Bytes used() const noexcept { return Bytes{used_}; }
  Bytes peak() const noexcept { return Bytes{peak_}; }

 private:
  std::map<std::uint64_t, std::size_t> taken_;  // offset -> bytes
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace zerospan::inline v0::detail
