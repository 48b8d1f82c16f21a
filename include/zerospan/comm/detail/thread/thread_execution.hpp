/// @file
/// How the ranks of a ThreadCommunicator move each other's bytes: at once, on their own threads.
#pragma once

#include <concepts>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// Of one rank.
///
/// @concept
/// - `execution.stream(reference)` is the stream that a collective is enqueued on, for `copy_bytes` and
///   `rank_order_sum`;
/// - `execution.fence(stream)` marks what has been enqueued there; the mark is valid until the fourth call after;
/// - `execution.wait(stream, fence)` makes the stream wait for another rank's fence;
/// - `execution.synchronize(stream)` waits for all that is enqueued there;
/// - `E::is_done_at_return` tells that there is nothing to wait for.
template <class E>
concept ThreadExecution = std::movable<E> && requires(E& execution, StreamRef reference, const void* fence) {
  requires std::same_as<const bool, decltype(E::is_done_at_return)>;
  execution.stream(reference);
  { execution.fence(reference) } -> std::same_as<const void*>;
  execution.wait(reference, fence);
  execution.synchronize(reference);
};

struct HostExecution {
  static constexpr bool is_done_at_return = true;

  static StreamRef stream(StreamRef) noexcept { return calling_thread; }
  static const void* fence(StreamRef) noexcept { return nullptr; }
  static void wait(StreamRef, const void*) noexcept {}
  static void synchronize(StreamRef) noexcept {}
};

static_assert(ThreadExecution<HostExecution>);

}  // namespace zerospan::inline v0::detail
