/// @file
/// The checksums of one extent of a CheckedTier. Needs xxHash.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <xxhash.h>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// One checksum a line (XXH3, 64 bits). Ranges of an extent begin at lines and are whole lines, but for the last one of
/// the extent. Thread-safe; what a line has that is written and read at the same time is undefined, as its bytes are.
class CheckedLines {
 public:
  /// A line that is not what was written.
  struct Mismatch {
    std::size_t begin;  ///< In the extent.
    std::size_t bytes;
    std::uint64_t expected;
    std::uint64_t found;
  };

  struct Verified {
    std::size_t bytes = 0;               ///< Of lines that were written before, up to the first that does not match.
    std::optional<Mismatch> mismatch{};  ///< The first one.
  };

  CheckedLines(const Extent& extent, std::size_t line)
      : extent_{extent}, line_{line}, checksums_((extent.bytes + line - 1) / line) {}

  const Extent& extent() const noexcept { return extent_; }
  std::size_t table_bytes() const noexcept { return checksums_.size() * sizeof(std::uint64_t); }

  /// From now on these bytes are expected from `begin` on.
  void expect(std::size_t begin, const std::byte* data, std::size_t bytes) noexcept {
    for (std::size_t done = 0; done < bytes; done += line_) {
      checksums_[(begin + done) / line_] = checksum(data + done, std::min(line_, bytes - done));
    }
  }

  /// Compares what was read from `begin` on with what is expected. Lines that were never written pass.
  Verified verify(std::size_t begin, const std::byte* data, std::size_t bytes) const noexcept {
    Verified result;
    for (std::size_t done = 0; done < bytes; done += line_) {
      const std::uint64_t expected = checksums_[(begin + done) / line_];
      if (expected == unknown) continue;
      const std::size_t size = std::min(line_, bytes - done);
      if (const std::uint64_t found = checksum(data + done, size); found != expected) {
        result.mismatch = Mismatch{begin + done, size, expected, found};
        return result;
      }
      result.bytes += size;
    }
    return result;
  }

 private:
  static constexpr std::uint64_t unknown = 0;  // of a line that was never written; no checksum

  static std::uint64_t checksum(const std::byte* data, std::size_t bytes) noexcept {
    return std::max<std::uint64_t>(::XXH3_64bits(data, bytes), 1);
  }

  Extent extent_;
  std::size_t line_;
  std::vector<std::atomic<std::uint64_t>> checksums_;  // relaxed: completions order transfers of the same line
};

}  // namespace zerospan::inline v0::detail
