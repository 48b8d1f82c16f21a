/// @file
/// LaneWorkers: one worker thread a lane.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/detail/start_thread.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::detail {

/// Each worker takes the items of its lane in order and executes one at a time. Ends when all that was pushed has been
/// taken. In a child process, which has no workers, its end does nothing.
template <class Item>
class LaneWorkers {
 public:
  using Execute = std::function<void(Lane, Item)>;

  /// @param execute Called on the workers; does not throw.
  explicit LaneWorkers(Execute execute) : execute_{std::move(execute)} {
    try {
      for (std::size_t i = 0; i < lane_count; ++i) {
        (*queues_)[i].worker = start_thread("the thread of the lane '" + std::string{lane_names[i]} + "'",
                                         [this, i] { run((*queues_)[i], static_cast<Lane>(i)); });
      }
    } catch (...) {  // no thread can be had: those that run are told to end
      stop();
      throw;
    }
  }
  LaneWorkers(const LaneWorkers&) = delete;
  LaneWorkers& operator=(const LaneWorkers&) = delete;
  ~LaneWorkers() {
    if (process_.is_this()) {
      stop();
    } else {
      for (Queue& queue : *queues_) queue.worker.detach();
      static_cast<void>(queues_.release());  // for ever: the end of what the parent's workers wait for would not end
    }
  }

  void push(Lane lane, Item item) {
    Queue& queue = (*queues_)[static_cast<std::size_t>(lane)];
    {
      const std::scoped_lock lock{queue.mutex};
      queue.items.push_back(std::move(item));
    }
    queue.changed.notify_one();
  }

 private:
  struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Item> items;
    bool stopping = false;
    std::thread worker;
  };

  void stop() noexcept {
    for (Queue& queue : *queues_) {
      {
        const std::scoped_lock lock{queue.mutex};
        queue.stopping = true;
      }
      queue.changed.notify_one();
    }
    for (Queue& queue : *queues_) {
      if (queue.worker.joinable()) queue.worker.join();
    }
  }

  void run(Queue& queue, Lane lane) {
    while (true) {
      std::unique_lock lock{queue.mutex};
      queue.changed.wait(lock, [&] { return queue.stopping || !queue.items.empty(); });
      if (queue.items.empty()) return;
      Item item = std::move(queue.items.front());
      queue.items.pop_front();
      lock.unlock();
      execute_(lane, std::move(item));
    }
  }

  using Queues = std::array<Queue, lane_count>;

  OwnProcess process_;
  Execute execute_;
  std::unique_ptr<Queues> queues_ = std::make_unique<Queues>();
};

}  // namespace zerospan::inline v0::detail
