/// @file
/// One line of a CachedTier, and the range of it that is in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/tier/detail/next_use.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// A range of an extent's bytes.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t bytes() const noexcept { return end > begin ? end - begin : 0; }
  bool empty() const noexcept { return bytes() == 0; }
};

inline ByteRange common(const ByteRange& a, const ByteRange& b) noexcept {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

/// The smallest range that holds both.
inline ByteRange hull(const ByteRange& a, const ByteRange& b) noexcept {
  if (a.empty() || b.empty()) return a.empty() ? b : a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

/// True if the two make one range, because they touch or one of them is empty.
inline bool adjoin(const ByteRange& a, const ByteRange& b) noexcept {
  return a.empty() || b.empty() || (a.begin <= b.end && b.begin <= a.end);
}

/// What must be read to have all of `wanted`, in one piece, where `valid` is there.
inline ByteRange missing(ByteRange wanted, const ByteRange& valid) noexcept {
  if (common(wanted, valid).empty()) return wanted;
  if (valid.begin <= wanted.begin) wanted.begin = std::min(valid.end, wanted.end);
  if (valid.end >= wanted.end) wanted.end = std::max(valid.begin, wanted.begin);
  return wanted;
}

/// Its slot and its history change in the order of the calls; the rest belongs to one transfer after the other.
struct CachedLine {
  Extent extent;    ///< The whole one.
  ByteRange range;  ///< The line's own.

  UseHistory reads;
  std::size_t slot = NextUseSlots::none;
  Completion last;  ///< The end of the last transfer that touches it; the next one waits for that.

  ByteRange valid;  ///< In memory.
  ByteRange dirty;  ///< In memory and newer than on the other tier; in `valid`.
  ByteRange lost;   ///< Could not be written back.
  std::exception_ptr loss;
};

}  // namespace zerospan::inline v0::detail
