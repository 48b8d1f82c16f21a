/// @file
/// HostLanes: the in-order lanes of a HostDevice, one worker thread each.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/detail/host_item.hpp>
#include <zerospan/device/detail/lane_monitor.hpp>
#include <zerospan/device/detail/lane_workers.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0 {

class HostDevice;

namespace detail {

/// The stream that posted work enqueues on: the lane's own thread.
using HostStream = StreamRef;

/// Lanes made of threads. The first error of any operation stops everything that has not begun. A child that `fork`
/// makes has none of the threads: what it asks of the lanes throws ConfigurationError, and their end there waits for
/// nothing.
class HostLanes {
 public:
  using stream_type = HostStream;
  using Work = std::function<Completion(HostStream&)>;
  using HostWork = std::function<Completion()>;

  static constexpr bool is_unified = true;

  HostLanes(HostDevice&, LaneOptions options)
      : monitor_{std::make_shared<LaneMonitor>(std::move(options))}, workers_{[this](Lane lane, HostItem item) {
          item.execute(monitor_, lane);
        }} {}
  HostLanes(const HostLanes&) = delete;
  HostLanes& operator=(const HostLanes&) = delete;

  ~HostLanes() { drain(); }

  Completion post(Lane lane, std::vector<Completion> after, const Operation& operation, Work work) {
    return post_host(lane, std::move(after), operation, [work = std::move(work)] {
      HostStream stream = calling_thread;
      return work(stream);
    });
  }

  Completion post_host(Lane lane, std::vector<Completion> after, const Operation& operation, HostWork work) {
    check_process();
    HostItem item = HostItem::make(std::move(after), operation, std::move(work));
    Completion completion = item.promise->completion();
    monitor_->item_posted();
    workers_.push(lane, std::move(item));
    return completion;
  }

  void wait(StreamRef, const Completion& completion, const Operation& operation) {
    check_process();
    if (!completion.done()) {
      const auto begin = LaneMonitor::Clock::now();
      monitor_->await(completion);
      monitor_->account_wait(operation, begin, LaneMonitor::Clock::now());
    }
    check_errors();
    if (const auto error = completion.error()) std::rethrow_exception(error);
  }

  Completion record(StreamRef) const noexcept { return {}; }

  void check() const {
    check_process();
    check_errors();
  }

  void enter() { monitor_->account("host", {OperationKind::compute, "host"}, left_, LaneMonitor::Clock::now()); }
  void leave() { left_ = LaneMonitor::Clock::now(); }

  LaneCounters counters() const { return monitor_->counters(); }

  /// Keeps `error` as the first, if there was none.
  void fail(const std::exception_ptr& error) { monitor_->fail(error); }

  bool drain() noexcept { return monitor_->drain(); }

 private:
  void check_process() const { process_.check("what was made on a HostDevice"); }

  void check_errors() const {
    if (const auto error = monitor_->error()) std::rethrow_exception(error);
  }

  OwnProcess process_;
  std::shared_ptr<LaneMonitor> monitor_;
  LaneMonitor::Clock::time_point left_ = LaneMonitor::Clock::now();
  LaneWorkers<HostItem> workers_;
};

static_assert(DeviceLanes<HostLanes>);

}  // namespace detail
}  // namespace zerospan::inline v0
