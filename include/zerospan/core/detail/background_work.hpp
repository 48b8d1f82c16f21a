/// @file
/// BackgroundWork: work on a thread of its own, and what became of it.
#pragma once

#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/detail/start_thread.hpp>

namespace zerospan::inline v0::detail {

/// One piece of work at a time. Its end waits for the work; not in a child process, which has no such thread.
class BackgroundWork {
 public:
  BackgroundWork() = default;
  BackgroundWork(const BackgroundWork&) = delete;
  BackgroundWork& operator=(const BackgroundWork&) = delete;
  ~BackgroundWork() { join(); }

  /// Begins `work()`. What was begun before has been waited for.
  /// @param purpose Says in errors whose thread it is. @throws ConfigurationError where the system refuses a thread.
  template <class F>
  void start(const std::string& purpose, F work) {
    std::packaged_task<void()> task{std::move(work)};
    std::future<void> outcome = task.get_future();
    thread_ = start_thread(purpose, std::move(task));
    outcome_ = std::move(outcome);
  }

  /// Whether it has ended, or none was begun.
  bool is_done() const {
    return !outcome_.valid() || outcome_.wait_for(std::chrono::seconds{0}) == std::future_status::ready;
  }

  /// Waits for its end, if one was begun. @throws what it has thrown, once; ConfigurationError in a child process.
  void wait() {
    process_.check("a thread");
    join();
    if (outcome_.valid()) outcome_.get();
  }

 private:
  void join() {
    if (!thread_.joinable()) return;
    process_.is_this() ? thread_.join() : thread_.detach();
  }

  OwnProcess process_;
  std::thread thread_;
  std::future<void> outcome_;
};

}  // namespace zerospan::inline v0::detail
