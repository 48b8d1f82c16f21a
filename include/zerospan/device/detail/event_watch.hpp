/// @file
/// EventWatch: tells when events have come.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0::detail {

/// One thread asks the device for the first event of each stream, again and again while there are any.
template <StreamRuntime R>
class EventWatch {
 public:
  using Event = typename R::event_type;
  using Told = std::function<void(const std::exception_ptr& error)>;

  /// @param runtime Outlives the watch.
  explicit EventWatch(R& runtime) : runtime_{runtime}, thread_{[this] { run(); }} {}
  EventWatch(const EventWatch&) = delete;
  EventWatch& operator=(const EventWatch&) = delete;

  /// Ends when all events have come.
  ~EventWatch() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_one();
  }

  /// Calls `told(error)` on the watching thread once the event, recorded on the stream after those added before, has
  /// come; with the device's error, if it has failed. `told` does not throw.
  void add(StreamRef stream, std::shared_ptr<Event> event, Told told) {
    {
      const std::scoped_lock lock{mutex_};
      added_.push_back({stream.native_handle(), std::move(event), std::move(told)});
    }
    changed_.notify_one();
  }

 private:
  /// How often the device is asked while nothing comes.
  static constexpr std::chrono::microseconds interval{20};

  struct Watched {
    void* stream;
    std::shared_ptr<Event> event;
    Told told;
  };

  void run() {
    bool is_attached = false;
    while (true) {
      std::unique_lock lock{mutex_};
      const auto has_news = [&] { return stopping_ || !added_.empty(); };
      if (streams_.empty()) {
        changed_.wait(lock, has_news);
      } else {
        changed_.wait_for(lock, interval, has_news);
      }
      for (Watched& watched : added_) streams_[watched.stream].push_back(std::move(watched));
      added_.clear();
      if (streams_.empty() && stopping_) return;
      lock.unlock();
      if (!std::exchange(is_attached, true)) attach();
      tell();
    }
  }

  /// A device that cannot be attached to says so again at the first event.
  void attach() noexcept {
    try {
      runtime_.attach();
    } catch (...) {
    }
  }

  void tell() {
    for (auto stream = streams_.begin(); stream != streams_.end();) {
      std::deque<Watched>& events = stream->second;
      while (!events.empty()) {
        std::exception_ptr error;
        if (!has_come(*events.front().event, error)) break;
        const Watched first = std::move(events.front());
        events.pop_front();
        first.told(error);
      }
      stream = events.empty() ? streams_.erase(stream) : std::next(stream);
    }
  }

  bool has_come(Event& event, std::exception_ptr& error) noexcept {
    try {
      return runtime_.is_done(event);
    } catch (...) {
      error = std::current_exception();
      return true;
    }
  }

  R& runtime_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Watched> added_;
  bool stopping_ = false;
  std::map<void*, std::deque<Watched>> streams_;  ///< The watching thread's own: each in the order of recording.
  std::jthread thread_;
};

}  // namespace zerospan::inline v0::detail
