/// @file
/// The host's compute stream, as the library sees it.
#pragma once

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// A non-owning reference to an in-order stream of the host framework: a `cudaStream_t`, or the calling thread.
/// Streams are always passed, never defaulted: whoever uses a buffer says where.
class StreamRef {
 public:
  /// The calling thread itself: what was enqueued is done when the call returns.
  constexpr StreamRef() noexcept = default;

  /// @param native The handle of a device stream (`cudaStream_t` is a pointer).
  constexpr explicit StreamRef(void* native) noexcept : native_{native}, is_thread_{false} {}

  constexpr void* native_handle() const noexcept { return native_; }
  constexpr bool is_calling_thread() const noexcept { return is_thread_; }

 private:
  void* native_ = nullptr;
  bool is_thread_ = true;
};

/// The stream of programs that compute on the CPU.
inline constexpr StreamRef calling_thread{};

}  // namespace zerospan::inline v0
