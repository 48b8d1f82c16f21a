/// @file
/// The concepts Device and DeviceLanes: memory under a budget, and in-order executors that move bytes in it.
#pragma once

#include <concepts>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0 {

/// The in-order executors of one engine on one device.
///
/// Posting rules (they keep small arenas free of deadlock and make virtual time exact):
/// 1. memory is assigned when work is posted, in program order, never inside a lane;
/// 2. an item waits only for items posted before it;
/// 3. items of one lane start in the order in which they were posted;
/// 4. an item whose predecessor failed is not run; its completion carries the predecessor's error.
///
/// @concept
/// - `L::is_unified` tells whether the host's threads may touch device memory; kernels may touch (pinned) host memory
///   everywhere;
/// - `lanes.post(lane, after, operation, work)` runs `work(stream)` on the lane, for the device, once everything in
///   `after` is done; `stream` is where the work enqueues; `work` returns the Completion of what it has started besides
///   (a ready one if there is nothing); the result completes with both;
/// - `lanes.post_host(lane, after, operation, work)` runs `work()` likewise, on a thread of the host;
/// - `lanes.wait(stream, completion, operation)` makes the host's stream wait; what is enqueued there later
///   sees the completed work; throws its error;
/// - `lanes.record(stream)` is the completion of everything enqueued on the host's stream so far;
/// - `lanes.check()` throws the first error of anything posted, if there was one;
/// - `lanes.fail(error)` makes it fail as if something posted had thrown `error`;
/// - `lanes.enter()` and `lanes.leave()` bracket every call of the host into the library: the time between is the
///   host's compute;
/// - `lanes.counters()` are the totals since the lanes were made;
/// - `lanes.drain()` blocks until nothing is posted or running, errors included; never throws. It returns false if it
///   gave up on transfers that are overdue: their memory and extents must not be used again.
template <class L>
concept DeviceLanes = requires(L& lanes, Lane lane, std::vector<Completion> after, const Operation& operation,
                               std::function<Completion(typename L::stream_type&)> work,
                               std::function<Completion()> host_work, StreamRef stream, const Completion& completion,
                               const std::exception_ptr& error) {
  requires std::same_as<const bool, decltype(L::is_unified)>;
  { lanes.post(lane, std::move(after), operation, std::move(work)) } -> std::same_as<Completion>;
  { lanes.post_host(lane, std::move(after), operation, std::move(host_work)) } -> std::same_as<Completion>;
  lanes.wait(stream, completion, operation);
  { lanes.record(stream) } -> std::same_as<Completion>;
  lanes.check();
  lanes.fail(error);
  lanes.enter();
  lanes.leave();
  { lanes.counters() } -> std::same_as<LaneCounters>;
  { lanes.drain() }
  noexcept->std::same_as<bool>;
};

/// Where gathered parameters, gradients and working buffers live.
///
/// @concept
/// - `device.memory()` is the arena of device memory, `device.host_memory()` that of (pinned) host memory;
///   both are under hard byte budgets;
/// - `typename D::lanes_type` models DeviceLanes and is made by `lanes_type{device, LaneOptions}`.
///
/// Devices outlive the engines that use them.
template <class D>
concept Device = DeviceLanes<typename D::lanes_type> && requires(D& device) {
  { device.memory() } -> std::same_as<Arena&>;
  { device.host_memory() } -> std::same_as<Arena&>;
};

}  // namespace zerospan::inline v0
