/// @file
/// The elementary operations on a stream of the host: copies, fills and conversions. A device's stream type has its own
/// overloads.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>

namespace zerospan::inline v0 {

/// @note On the calling thread it is done when it returns; on a device's stream it is enqueued.
void copy_bytes(std::same_as<StreamRef> auto, std::byte* target, const std::byte* source, std::size_t bytes) {
  if (target != source) std::memcpy(target, source, bytes);
}

/// @note As `copy_bytes`.
void fill_zero(std::same_as<StreamRef> auto, std::byte* target, std::size_t bytes) { std::memset(target, 0, bytes); }

/// Widens elements, as `to_float`. @note As `copy_bytes`.
void widen(std::same_as<StreamRef> auto, ElementType type, const std::byte* source, float* target,
           std::size_t elements) {
  to_float(type, source, target, elements);
}

/// Rounds elements, as `from_float`. @note As `copy_bytes`.
void narrow(std::same_as<StreamRef> auto, const float* source, ElementType type, std::byte* target,
            std::size_t elements) {
  from_float(source, type, target, elements);
}

}  // namespace zerospan::inline v0
