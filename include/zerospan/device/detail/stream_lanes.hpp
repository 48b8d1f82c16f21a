/// @file
/// StreamLanes: the in-order lanes of a device with streams: a thread each, which feeds a stream of its own.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/detail/event_pool.hpp>
#include <zerospan/device/detail/event_watch.hpp>
#include <zerospan/device/detail/host_item.hpp>
#include <zerospan/device/detail/lane_monitor.hpp>
#include <zerospan/device/detail/lane_workers.hpp>
#include <zerospan/device/detail/stream_marks.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0 {

template <StreamRuntime R>
class StreamDevice;

namespace detail {

/// Work for the device is enqueued as soon as everything before it has been: streams wait for streams, threads only for
/// what has not been enqueued. Work for the host begins when everything before it has ended. The first error of any
/// operation stops everything that has not begun.
template <StreamRuntime R>
class StreamLanes {
 public:
  using stream_type = typename R::stream_type;
  using Work = std::function<Completion(stream_type&)>;
  using HostWork = std::function<Completion()>;

  static constexpr bool is_unified = false;

  /// @param device Outlives the lanes.
  StreamLanes(StreamDevice<R>& device, LaneOptions options)
      : device_{device},
        runtime_{device.runtime()},
        monitor_{std::make_shared<LaneMonitor>(std::move(options))},
        origin_{events_->take(runtime_)},
        streams_{make_streams(std::make_index_sequence<lane_count>{})},
        watch_{runtime_},
        workers_{[this](Lane lane, Item item) { execute(lane, std::move(item)); }} {
    runtime_.record(*origin_, reference_of(Lane::copy));
    runtime_.synchronize(reference_of(Lane::copy));
    begun_ = LaneMonitor::Clock::now();
  }
  StreamLanes(const StreamLanes&) = delete;
  StreamLanes& operator=(const StreamLanes&) = delete;

  ~StreamLanes() { drain(); }

  Completion post(Lane lane, std::vector<Completion> after, const Operation& operation, Work work) {
    const std::uint64_t ticket = device_.next_ticket();
    Item item{HostItem::make(std::move(after), operation, nullptr, ticket), std::move(work), ticket};
    marks_.open(ticket);
    return push(lane, std::move(item));
  }

  Completion post_host(Lane lane, std::vector<Completion> after, const Operation& operation, HostWork work) {
    return push(lane, {HostItem::make(std::move(after), operation, std::move(work)), nullptr, 0});
  }

  /// @note On a stream it returns when the stream has been told to wait.
  void wait(StreamRef stream, const Completion& completion, const Operation& operation) {
    if (!completion.done()) {
      [[maybe_unused]] const auto range = runtime_.range(std::string{"wait for "} + completion.label());
      const auto begin = LaneMonitor::Clock::now();
      if (stream.is_calling_thread()) {
        monitor_->await(completion);
      } else {
        order(stream, completion);
      }
      monitor_->account_wait(operation, begin, LaneMonitor::Clock::now());
    }
    check();
    if (const auto error = completion.error()) std::rethrow_exception(error);
  }

  Completion record(StreamRef stream) {
    if (stream.is_calling_thread()) return {};
    const std::uint64_t ticket = device_.next_ticket();
    const auto promise = std::make_shared<Promise>("the host's stream", ticket);
    std::shared_ptr<Event> event = events_->take(runtime_);
    runtime_.record(*event, stream);
    monitor_->item_posted();
    marks_.enqueued(ticket, event);
    watch_.add(stream, std::move(event), [this, promise, ticket](const std::exception_ptr& error) {
      if (error) {
        monitor_->fail(error);
        promise->fail(error);
      } else {
        promise->succeed();
      }
      marks_.close(ticket);
      monitor_->item_finished();
    });
    return promise->completion();
  }

  void check() const {
    if (const auto error = monitor_->error()) std::rethrow_exception(error);
  }

  void enter() { monitor_->account("host", {OperationKind::compute, "host"}, left_, LaneMonitor::Clock::now()); }
  void leave() { left_ = LaneMonitor::Clock::now(); }

  LaneCounters counters() const { return monitor_->counters(); }

  /// Keeps `error` as the first, if there was none.
  void fail(const std::exception_ptr& error) { monitor_->fail(error); }

  bool drain() noexcept {
    const bool has_ended = monitor_->drain();
    if (has_ended && partly_enqueued_) synchronize();
    return has_ended;
  }

 private:
  using Event = typename R::event_type;

  struct Item {
    HostItem host;
    Work work;  ///< For the device; empty: the host's work.
    std::uint64_t ticket;
  };

  /// What brings parameters in time goes first, what has until the step goes last.
  static constexpr StreamPriority priority_of(Lane lane) {
    if (lane == Lane::copy || lane == Lane::communicate) return StreamPriority::high;
    return lane == Lane::update ? StreamPriority::low : StreamPriority::normal;
  }

  template <std::size_t... I>
  std::array<typename R::stream_owner, lane_count> make_streams(std::index_sequence<I...>) {
    return {runtime_.make_stream(priority_of(static_cast<Lane>(I)))...};
  }

  StreamRef reference_of(Lane lane) const { return StreamRef{streams_[static_cast<std::size_t>(lane)].ref()}; }

  Completion push(Lane lane, Item item) {
    Completion completion = item.host.promise->completion();
    monitor_->item_posted();
    workers_.push(lane, std::move(item));
    return completion;
  }

  void execute(Lane lane, Item item) {
    [[maybe_unused]] const auto range = runtime_.range(item.host.promise->completion().label());
    if (item.work) {
      enqueue(lane, std::move(item));
    } else {
      item.host.execute(monitor_, lane);
    }
  }

  /// Makes a stream wait for what was posted before.
  void order(StreamRef stream, const Completion& earlier) {
    monitor_->await([&](auto deadline) { return marks_.wait_until(earlier.ticket(), deadline); });
    if (const auto event = marks_.find(earlier.ticket())) {
      runtime_.wait(stream, *event);
    } else {
      monitor_->await(earlier);
    }
  }

  /// @return The error for which an item that comes after these must not begin, if any.
  std::exception_ptr order(StreamRef stream, const std::vector<Completion>& after) {
    for (const Completion& earlier : after) {
      if (!earlier.done()) order(stream, earlier);
      if (const auto error = earlier.error()) return error;
    }
    return monitor_->error();
  }

  void enqueue(Lane lane, Item item) {
    Enqueued enqueued{lane, std::move(item.host), item.ticket, nullptr, nullptr, {}};
    std::exception_ptr error;
    try {
      runtime_.attach();
      stream_type stream{reference_of(lane)};
      error = order(reference_of(lane), enqueued.item.after);
      if (!error) {
        enqueued.begin = events_->take(runtime_);
        enqueued.end = events_->take(runtime_);
        runtime_.record(*enqueued.begin, reference_of(lane));
        enqueued.started = item.work(stream);
        runtime_.record(*enqueued.end, reference_of(lane));
      }
    } catch (...) {
      error = std::current_exception();
    }
    item.work = nullptr;
    if (error) {
      partly_enqueued_ = partly_enqueued_ || enqueued.begin;
      return finish(enqueued, error);
    }
    if (enqueued.started.done()) marks_.enqueued(item.ticket, enqueued.end);
    watch_.add(reference_of(lane), enqueued.end, [this, enqueued](const std::exception_ptr& failure) {
      enqueued.started.then(
          [this, enqueued, failure](const std::exception_ptr& other) { finish(enqueued, failure ? failure : other); });
    });
  }

  struct Enqueued {
    Lane lane;
    HostItem item;
    std::uint64_t ticket;
    std::shared_ptr<Event> begin;
    std::shared_ptr<Event> end;
    Completion started;
  };

  void finish(const Enqueued& enqueued, std::exception_ptr error) {
    auto begin = LaneMonitor::Clock::now();
    auto end = begin;
    if (!error) {
      try {
        begin = time_of(*enqueued.begin);
        end = time_of(*enqueued.end);
      } catch (...) {
        error = std::current_exception();
      }
    }
    const Operation& operation = enqueued.item.operation;
    monitor_->finish_item(*enqueued.item.promise, lane_names[static_cast<std::size_t>(enqueued.lane)],
                          {operation.kind, enqueued.item.name, operation.bytes}, begin, end, error);
    marks_.close(enqueued.ticket);
  }

  /// Of what was enqueued by work that then threw, nobody has the end.
  void synchronize() noexcept {
    try {
      for (const auto& stream : streams_) runtime_.synchronize(StreamRef{stream.ref()});
    } catch (...) {  // the device has failed: nothing runs any more
    }
  }

  LaneMonitor::Clock::time_point time_of(Event& event) {
    const std::chrono::duration<double> since{runtime_.seconds(*origin_, event)};
    return begun_ + std::chrono::duration_cast<LaneMonitor::Clock::duration>(since);
  }

  StreamDevice<R>& device_;
  R& runtime_;
  std::shared_ptr<LaneMonitor> monitor_;
  std::shared_ptr<EventPool<R>> events_ = std::make_shared<EventPool<R>>();
  std::shared_ptr<Event> origin_;  ///< Of the device's clock: the host's `begun_`.
  LaneMonitor::Clock::time_point begun_;
  LaneMonitor::Clock::time_point left_ = LaneMonitor::Clock::now();
  std::array<typename R::stream_owner, lane_count> streams_;
  std::atomic<bool> partly_enqueued_ = false;
  StreamMarks<Event> marks_;
  EventWatch<R> watch_;
  LaneWorkers<Item> workers_;
};

}  // namespace detail
}  // namespace zerospan::inline v0
