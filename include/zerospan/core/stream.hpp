/// @file
/// The host's compute stream, as the library sees it.
#pragma once

#include <concepts>
#include <cstddef>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// A non-owning reference to an in-order stream of the host framework: a `cudaStream_t`, or the calling thread.
/// Streams are always passed, never defaulted: whoever uses a buffer says where.
class StreamRef {
 public:
  StreamRef() = delete;                    // zerospan: say which stream; calling_thread is the one of the CPU
  StreamRef(std::nullptr_t) = delete;      // zerospan: say which stream; CUDA names its own cudaStreamLegacy
  StreamRef(std::integral auto) = delete;  // zerospan: say which stream; CUDA names its own cudaStreamLegacy

  /// @param native The handle of a device stream (`cudaStream_t` is a pointer). A null one is what it is to CUDA: the
  /// device's default stream, never the calling thread.
  constexpr explicit StreamRef(void* native) noexcept : StreamRef{native, false} {}

  /// The calling thread itself: what was enqueued is done when the call returns.
  static constexpr StreamRef of_calling_thread() noexcept { return StreamRef{nullptr, true}; }

  constexpr void* native_handle() const noexcept { return native_; }
  constexpr bool is_calling_thread() const noexcept { return is_thread_; }

 private:
  constexpr StreamRef(void* native, bool is_thread) noexcept : native_{native}, is_thread_{is_thread} {}

  void* native_;
  bool is_thread_;
};

/// The stream of programs that compute on the CPU.
inline constexpr StreamRef calling_thread = StreamRef::of_calling_thread();

}  // namespace zerospan::inline v0
