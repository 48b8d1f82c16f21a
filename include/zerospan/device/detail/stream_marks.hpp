/// @file
/// StreamMarks: which posted items have been enqueued on their streams, and the events of their ends.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// A stream that waits for an event before it was recorded does not wait: whoever orders a stream after an item first
/// waits, on the host, until the item has been enqueued and its event recorded.
///
/// @note Thread-safe. Items go by the tickets of their completions.
template <class Event>
class StreamMarks {
 public:
  using Clock = std::chrono::steady_clock;

  /// An item was posted.
  void open(std::uint64_t ticket) {
    const std::scoped_lock lock{mutex_};
    marks_.emplace(ticket, nullptr);
  }

  /// The item has been enqueued; `event` marks its end.
  void enqueued(std::uint64_t ticket, std::shared_ptr<Event> event) {
    {
      const std::scoped_lock lock{mutex_};
      marks_[ticket] = std::move(event);
    }
    changed_.notify_all();
  }

  /// The item's completion is done.
  void close(std::uint64_t ticket) {
    {
      const std::scoped_lock lock{mutex_};
      marks_.erase(ticket);
    }
    changed_.notify_all();
  }

  /// Blocks until the item has been enqueued, or is not open, or the deadline has passed. @return Whether it waits no
  /// more.
  bool wait_until(std::uint64_t ticket, Clock::time_point deadline) const {
    std::unique_lock lock{mutex_};
    return changed_.wait_until(lock, deadline, [&] {
      const auto mark = marks_.find(ticket);
      return mark == marks_.end() || mark->second;
    });
  }

  /// The event of an item that has been enqueued and is not done; nullptr for every other.
  std::shared_ptr<Event> find(std::uint64_t ticket) const {
    const std::scoped_lock lock{mutex_};
    const auto mark = marks_.find(ticket);
    return mark == marks_.end() ? nullptr : mark->second;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Event>> marks_;
};

}  // namespace zerospan::inline v0::detail
