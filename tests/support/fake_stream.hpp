/// @file
/// Streams and events for tests: threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include <zerospan/core/stream.hpp>

namespace fake {

using zerospan::StreamRef;

/// An in-order executor: a thread.
class Stream {
 public:
  Stream() : worker_{[this] { run(); }} {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    enqueue({});
    worker_.join();
  }

  StreamRef ref() noexcept { return StreamRef{this}; }
  static Stream& of(StreamRef ref) noexcept { return *static_cast<Stream*>(ref.native_handle()); }

  void enqueue(std::function<void()> work) {
    {
      const std::scoped_lock lock{mutex_};
      items_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  /// Waits until everything enqueued so far is done.
  void synchronize() {
    std::atomic<bool> done = false;
    enqueue([&] {
      done = true;
      done.notify_all();
    });
    done.wait(false);
    const std::scoped_lock lock{mutex_};  // until the item has gone
  }

 private:
  void run() {
    while (true) {
      std::unique_lock lock{mutex_};
      changed_.wait(lock, [&] { return !items_.empty(); });
      const std::function<void()> work = std::move(items_.front());
      items_.pop_front();
      lock.unlock();
      if (!work) return;
      work();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> items_;
  std::thread worker_;
};

/// The streams that a rank has used: to free memory waits for them all.
class Streams {
 public:
  Stream& at(StreamRef ref) {
    const std::scoped_lock lock{mutex_};
    used_.insert(&Stream::of(ref));
    return Stream::of(ref);
  }
  void synchronize() {
    const std::scoped_lock lock{mutex_};
    for (Stream* const stream : used_) stream->synchronize();
  }

 private:
  std::mutex mutex_;
  std::set<Stream*> used_;
};

/// Done when everything recorded has been reached.
struct Event {
  struct Times {
    std::atomic<int> recorded = 0;
    std::atomic<int> reached = 0;
  };
  std::shared_ptr<Times> times = std::make_shared<Times>();
};

}  // namespace fake
