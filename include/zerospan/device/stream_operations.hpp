/// @file
/// The elementary operations on a stream of the host: copies and fills. A device's stream type has its own overloads.
#pragma once

#include <cstddef>
#include <cstring>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>

namespace zerospan::inline v0 {

/// @note On the calling thread it is done when it returns; on a device's stream it is enqueued.
inline void copy_bytes(StreamRef, std::byte* target, const std::byte* source, std::size_t bytes) {
  if (target != source) std::memcpy(target, source, bytes);
}

/// @note As `copy_bytes`.
inline void fill_zero(StreamRef, std::byte* target, std::size_t bytes) { std::memset(target, 0, bytes); }

}  // namespace zerospan::inline v0
