/// @file
/// The concept IoEngine: asynchronous reads and writes on file descriptors.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

enum class IoDirection : std::uint8_t { read, write };

/// One positioned transfer. The buffer belongs to the caller and stays until the callback was called.
struct IoRequest {
  IoDirection direction;
  int file_descriptor;
  std::uint64_t offset;
  std::byte* data;
  std::size_t bytes;
};

/// Told the outcome of a request, exactly once: bytes moved (possibly fewer than asked), or a negative errno.
/// Called on a thread of the engine; it may submit further requests and must not throw or block.
using IoCallback = std::function<void(std::int64_t result)>;

/// An engine that carries out transfers asynchronously, many at once. It reports what the system did and hides
/// nothing: short transfers are continued by its caller.
///
/// @concept
/// - `engine.submit(request, callback)` starts a transfer, from any thread, and does not wait for it; requests beyond
///   the queue depth are queued;
/// - `engine.queue_depth()` is how many transfers the device is given at once;
/// - `engine.name()` names it in errors and summaries.
///
/// The destructor waits for the transfers under way. Engines outlive the tiers that use them.
///
/// Engines, and the tiers and devices over them, belong to the process that made them. A child that `fork` makes has
/// none of their threads: there it makes its own, and what it uses of its parent's throws ConfigurationError.
template <class E>
concept IoEngine = requires(E& engine, const IoRequest& request, IoCallback callback) {
  engine.submit(request, std::move(callback));
  { engine.queue_depth() } -> std::convertible_to<std::size_t>;
  { engine.name() } -> std::convertible_to<std::string_view>;
};

}  // namespace zerospan::inline v0
