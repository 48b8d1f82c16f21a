/// @file
/// What every tier does with extents: deal them out, find them again, and refuse transfers that leave them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// The extents that a tier has dealt out of an unbounded space, and what it knows of each. Space is dealt out first
/// fit, so that offsets depend on the order of the calls alone. Not synchronized.
template <class T>
class ExtentMap {
 public:
  /// Where it is stays the same until it is erased.
  struct Taken {
    Extent extent;
    T value;
  };

  /// Bytes that the space has at most.
  static constexpr std::size_t most_bytes = std::numeric_limits<std::int64_t>::max();

  /// The lowest offset at which `bytes` are free.
  std::uint64_t first_fit(std::size_t bytes) const {
    std::uint64_t found = 0;
    visit_gaps([&](std::uint64_t begin, std::size_t free) {
      found = begin;
      return free >= bytes;
    });
    return found;
  }

  /// Calls `f(begin, bytes)` for each free range, in order, until it returns true. The last one has no end.
  template <class F>
  void visit_gaps(F f) const {
    std::uint64_t begin = full_below_;
    for (auto next = taken_.lower_bound(begin); next != taken_.end(); ++next) {
      const Extent& extent = next->second.extent;
      if (extent.offset > begin && f(begin, static_cast<std::size_t>(extent.offset - begin))) return;
      begin = extent.offset + extent.bytes;
    }
    f(begin, most_bytes);
  }

  /// Takes an extent that is free and not empty.
  Taken& insert(const Extent& extent, T value) {
    const auto inserted = taken_.emplace(extent.offset, Taken{extent, std::move(value)}).first;
    used_ += extent.bytes;
    peak_ = std::max(peak_, used_);
    for (auto next = inserted; next != taken_.end() && next->first == full_below_; ++next) {
      full_below_ += next->second.extent.bytes;
    }
    return inserted->second;
  }

  /// Frees what `find` or `holder` has found.
  void erase(const Taken& taken) noexcept {
    used_ -= taken.extent.bytes;
    full_below_ = std::min(full_below_, taken.extent.offset);
    taken_.erase(taken_.find(taken.extent.offset));
  }

  /// An extent that was taken as it is; nullptr if there is none.
  Taken* find(const Extent& extent) noexcept {
    const auto found = taken_.find(extent.offset);
    return found != taken_.end() && found->second.extent.bytes == extent.bytes ? &found->second : nullptr;
  }

  /// The extent that was taken and that `extent`, which is not empty, is in; nullptr if there is none.
  const Taken* holder(const Extent& extent) const noexcept {
    const auto next = taken_.upper_bound(extent.offset);
    if (next == taken_.begin()) return nullptr;
    const Taken& taken = std::prev(next)->second;
    const std::uint64_t within = extent.offset - taken.extent.offset;
    return within < taken.extent.bytes && extent.bytes <= taken.extent.bytes - within ? &taken : nullptr;
  }

  /// Calls `f(taken)` for each extent that is taken, in order.
  template <class F>
  void for_each(F f) const {
    for (const auto& [offset, taken] : taken_) f(taken);
  }

  Bytes used() const noexcept { return Bytes{used_}; }
  Bytes peak() const noexcept { return Bytes{peak_}; }

 private:
  std::map<std::uint64_t, Taken> taken_;  // by offset
  std::uint64_t full_below_ = 0;          ///< Nothing is free before this offset.
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

/// A transfer between an extent and memory, as errors and completions name it.
struct TransferName {
  std::string_view operation;  ///< "read" or "write".
  const Extent& extent;
  std::size_t offset;  ///< In the extent.
  std::size_t bytes;
  std::string_view tier;

  /// "read of 512 bytes at offset 0 of an extent of 4096 bytes of host memory".
  std::string text() const {
    return std::string{operation} + " of " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
           " of an extent of " + std::to_string(extent.bytes) + " bytes of " + std::string{tier};
  }

  /// @throws ConfigurationError if the transfer leaves the extent.
  void check_inside() const {
    if (offset > extent.bytes || bytes > extent.bytes - offset) throw_configuration_error(text() + " leaves it");
  }

  /// @param bits Of all that must be aligned: offsets, sizes, addresses. @param alignment A power of two.
  /// @throws ConfigurationError if they are not.
  void check_aligned(std::uint64_t bits, std::size_t alignment) const {
    if ((bits & (alignment - 1)) == 0) return;
    throw_configuration_error(text() + " is not aligned: offsets, sizes and buffers are multiples of " +
                              std::to_string(alignment) + " bytes");
  }

  [[noreturn]] void refuse_unplaced() const { throw_configuration_error(text() + ": the extent is not placed there"); }
};

}  // namespace zerospan::inline v0::detail
