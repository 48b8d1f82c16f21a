/// @file
/// HostLanes: the in-order lanes of a HostDevice, one worker thread each.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/lane_monitor.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0 {

class HostDevice;

/// The stream that posted work enqueues on: the lane's own thread.
using HostStream = StreamRef;

/// Lanes made of threads. The first error of any operation stops everything that has not begun.
class HostLanes {
 public:
  using stream_type = HostStream;
  using Work = std::function<Completion(HostStream&)>;

  HostLanes(HostDevice&, LaneOptions options) : monitor_{std::make_shared<LaneMonitor>(std::move(options))} {
    try {
      for (std::size_t i = 0; i < lane_count; ++i) {
        queues_[i].worker = std::jthread{[this, i] { run(queues_[i], lane_names[i]); }};
      }
    } catch (...) {  // no thread can be had: those that run are told to end
      stop();
      throw;
    }
  }
  HostLanes(const HostLanes&) = delete;
  HostLanes& operator=(const HostLanes&) = delete;

  ~HostLanes() {
    drain();
    stop();
  }

  Completion post(Lane lane, std::vector<Completion> after, const Operation& operation, Work work) {
    Item item{std::move(after), operation, std::string{operation.name}, std::move(work),
              std::make_shared<Promise>(std::string{to_string(operation.kind)} + " of " + std::string{operation.name})};
    Completion completion = item.promise->completion();
    monitor_->item_posted();
    Queue& queue = queues_[static_cast<std::size_t>(lane)];
    {
      const std::scoped_lock lock{queue.mutex};
      queue.items.push_back(std::move(item));
    }
    queue.changed.notify_one();
    return completion;
  }

  void wait(StreamRef, const Completion& completion, const Operation& operation) {
    if (!completion.done()) {
      const auto begin = LaneMonitor::Clock::now();
      monitor_->await(completion);
      monitor_->account("host", {OperationKind::wait, operation.name}, begin, LaneMonitor::Clock::now());
    }
    check();
    if (const auto error = completion.error()) std::rethrow_exception(error);
  }

  Completion record(StreamRef) const noexcept { return {}; }

  void check() const {
    if (const auto error = monitor_->error()) std::rethrow_exception(error);
  }

  void enter() { monitor_->account("host", {OperationKind::compute, "host"}, left_, LaneMonitor::Clock::now()); }
  void leave() { left_ = LaneMonitor::Clock::now(); }

  LaneCounters counters() const { return monitor_->counters(); }

  /// Keeps `error` as the first, if there was none.
  void fail(const std::exception_ptr& error) { monitor_->fail(error); }

  bool drain() noexcept { return monitor_->drain(); }

 private:
  struct Item {
    std::vector<Completion> after;
    Operation operation;
    std::string name;
    Work work;
    std::shared_ptr<Promise> promise;
  };

  struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Item> items;
    bool stopping = false;
    std::jthread worker;
  };

  void stop() noexcept {
    for (Queue& queue : queues_) {
      {
        const std::scoped_lock lock{queue.mutex};
        queue.stopping = true;
      }
      queue.changed.notify_one();
    }
  }

  void run(Queue& queue, std::string_view track) {
    while (true) {
      std::unique_lock lock{queue.mutex};
      queue.changed.wait(lock, [&] { return queue.stopping || !queue.items.empty(); });
      if (queue.items.empty()) return;
      Item item = std::move(queue.items.front());
      queue.items.pop_front();
      lock.unlock();
      execute(std::move(item), track);
    }
  }

  void execute(Item item, std::string_view track) {
    std::exception_ptr error = predecessors(item);
    const auto begin = LaneMonitor::Clock::now();
    Completion started;
    if (!error) {
      try {
        HostStream stream = calling_thread;
        started = item.work(stream);
      } catch (...) {
        error = std::current_exception();
      }
    }
    item.work = nullptr;
    const std::uint64_t transfer = started.done() ? 0 : monitor_->transfer_begins(item.promise->completion().label());
    const auto finish = [monitor = monitor_, promise = item.promise, operation = item.operation,
                         name = std::move(item.name), track, begin, transfer](const std::exception_ptr& failure) {
      monitor->transfer_ended(transfer);
      monitor->account(track, {operation.kind, name, operation.bytes}, begin, LaneMonitor::Clock::now());
      if (failure) {
        monitor->fail(failure);
        promise->fail(failure);
      } else {
        promise->succeed();
      }
      monitor->item_finished();
    };
    if (error) {
      finish(error);
    } else {
      started.then(finish);
    }
  }

  /// Waits for what the item comes after; the error for which it must not run, if any.
  std::exception_ptr predecessors(const Item& item) const {
    for (const Completion& completion : item.after) {
      monitor_->await(completion);
      if (const auto error = completion.error()) return error;
    }
    return monitor_->error();
  }

  std::shared_ptr<LaneMonitor> monitor_;
  LaneMonitor::Clock::time_point left_ = LaneMonitor::Clock::now();
  std::array<Queue, lane_count> queues_;
};

static_assert(DeviceLanes<HostLanes>);

}  // namespace zerospan::inline v0
