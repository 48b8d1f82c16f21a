/// @file
/// EventPool: events, used again.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0::detail {

/// @note Thread-safe. Events that are in use keep the pool alive.
template <StreamRuntime R>
class EventPool : public std::enable_shared_from_this<EventPool<R>> {
 public:
  using Event = typename R::event_type;

  /// An event of nobody else's; it returns to the pool with its last owner.
  std::shared_ptr<Event> take(R& runtime) {
    std::unique_ptr<Event> event = take_free();
    if (!event) event = std::make_unique<Event>(runtime.make_event());
    return {event.release(), [pool = this->shared_from_this()](Event* used) noexcept { pool->give_back(used); }};
  }

 private:
  std::unique_ptr<Event> take_free() {
    const std::scoped_lock lock{mutex_};
    if (free_.empty()) return nullptr;
    std::unique_ptr<Event> event = std::move(free_.back());
    free_.pop_back();
    return event;
  }

  void give_back(Event* used) noexcept {
    std::unique_ptr<Event> event{used};
    const std::scoped_lock lock{mutex_};
    try {
      free_.push_back(std::move(event));
    } catch (...) {  // no memory for the list: the event ends
    }
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Event>> free_;
};

}  // namespace zerospan::inline v0::detail
