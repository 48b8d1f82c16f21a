/// @file
/// The concept StreamRuntime: what a device of its own memory, streams and events has to offer.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

enum class StreamPriority : std::uint8_t { low, normal, high };

/// The calls of a GPU's runtime that a StreamDevice is made of, one to one. A runtime is so thin as to be obviously
/// right; whatever decides anything is above it, and is tested without a GPU.
///
/// @concept
/// - `typename R::stream_type` refers to a stream; it converts to StreamRef, explicitly, and is made of one that is no
///   thread; the stream operations (`copy_bytes`, `fill_zero`, ...) have overloads for it;
/// - `typename R::stream_owner`, made by `make_stream(priority)`, owns a stream: `owner.ref()`;
/// - `typename R::event_type`, made by `make_event()`, owns a timed event; both end with their objects;
/// - `runtime.attach()` makes the device current for the calling thread;
/// - `runtime.allocate_device(bytes)` and `allocate_host(bytes)` give device memory, and pinned memory that the
///   device's kernels address as well, aligned to 4096 bytes; @throws BudgetError where there is too little;
/// - `runtime.record(event, stream)` marks what has been enqueued on the stream; `runtime.wait(stream, event)` makes
///   what is enqueued later wait for it, and does not wait at all if the event was not recorded before;
/// - `runtime.is_done(event)` tells whether all that was marked has ended; throws the device's asynchronous error;
/// - `runtime.seconds(begin, end)` is the time between two events that are done;
/// - `runtime.synchronize(stream)` waits for all that is enqueued;
/// - `runtime.range(name)` names what the calling thread does while the result lives, for the device's profilers.
///
/// All of it may be called from any thread.
template <class R>
concept StreamRuntime = requires(R& runtime, typename R::stream_type& stream, const typename R::stream_owner& owner,
                                 typename R::event_type& event, StreamRef reference, Bytes bytes,
                                 StreamPriority priority, const std::string& name) {
  requires std::constructible_from<typename R::stream_type, StreamRef>;
  requires std::constructible_from<StreamRef, typename R::stream_type>;
  runtime.attach();
  { runtime.allocate_device(bytes) } -> std::same_as<std::shared_ptr<std::byte>>;
  { runtime.allocate_host(bytes) } -> std::same_as<std::shared_ptr<std::byte>>;
  { runtime.make_stream(priority) } -> std::same_as<typename R::stream_owner>;
  { owner.ref() } -> std::same_as<typename R::stream_type>;
  { runtime.make_event() } -> std::same_as<typename R::event_type>;
  runtime.record(event, reference);
  runtime.wait(reference, event);
  { runtime.is_done(event) } -> std::same_as<bool>;
  { runtime.seconds(event, event) } -> std::same_as<double>;
  runtime.synchronize(reference);
  runtime.range(name);
};

}  // namespace zerospan::inline v0
