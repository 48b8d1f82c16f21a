/// @file
/// LinkableExtents: what a tier offers whose extents are in files. What is there now becomes somebody else's by a name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// Gives files names.
class FileNaming {
 public:
  FileNaming() = default;
  FileNaming(const FileNaming&) = delete;
  FileNaming& operator=(const FileNaming&) = delete;
  virtual ~FileNaming() = default;

  /// Whether a file could have a name where the names are. What is done to that end is done after this was asked.
  virtual bool can_name(int descriptor) = 0;

  /// Gives a file the next name; makes nothing durable. @return false if it can have none.
  /// @throws IoError
  virtual bool name(int descriptor) = 0;
};

/// A checksum of bytes in host memory.
using ByteChecksum = std::uint64_t (*)(std::span<const std::byte>) noexcept;

/// Bytes of a file.
struct CheckedBytes {
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t checksum;
};

/// A file that has been given a name.
struct LinkedFile {
  std::uint64_t bytes;               ///< Of the file.
  std::vector<CheckedBytes> pieces;  ///< Of what was asked for, in order.
};

/// A part of an extent, which is at the same offset in a file.
struct LinkedRange {
  Extent range;
  std::size_t file;
};

struct LinkedExtents {
  std::vector<LinkedFile> files;    ///< In the order in which they were named.
  std::vector<LinkedRange> ranges;  ///< In order. What is missing is in files that could not be named.
};

/// A tier's extents in files, which can be given names. What is in a file then stays as it is: whatever is written to
/// its extents from then on, or to others in the same file, goes to another file.
class LinkableExtents {
 public:
  /// Gives each file a name that has something of the extents; on any thread. Nothing is written; space is taken for as
  /// many bytes as the extents have. What the tier has no checksum of is read back: all of it the first time; from then
  /// on checksums are made while extents are written, which must be from host memory.
  /// @param extents As they were placed; nothing is written to them meanwhile. Others may be, and all be read.
  /// @throws IoError if there is no space, a file cannot be read, or has no name for another reason than that it can
  /// have none. The tier goes on in any case.
  virtual LinkedExtents link(std::span<const Extent> extents, ByteChecksum checksum, FileNaming& naming) = 0;

 protected:
  ~LinkableExtents() = default;
};

}  // namespace zerospan::inline v0
