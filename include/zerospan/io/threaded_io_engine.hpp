/// @file
/// ThreadedIoEngine: blocking transfers on worker threads; pread and pwrite, for any file on any POSIX system.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/io/io_engine.hpp>

namespace zerospan::inline v0 {

struct ThreadedIoOptions {
  std::size_t threads = 4;  ///< Transfers under way at once.
};

/// The transfers of a ThreadedIoEngine: each returns bytes moved, possibly fewer than asked, or a negative errno.
struct PosixTransfers {
  static constexpr std::string_view name = "threads";

  /// An interrupted call (EINTR) is repeated.
  std::int64_t operator()(const IoRequest& request) const noexcept {
    const auto offset = static_cast<off_t>(request.offset);
    while (true) {
      const ssize_t moved = request.direction == IoDirection::read
                                ? ::pread(request.file_descriptor, request.data, request.bytes, offset)
                                : ::pwrite(request.file_descriptor, request.data, request.bytes, offset);
      if (moved >= 0) return moved;
      if (errno != EINTR) return -errno;
    }
  }
};

/// An engine whose threads block in one transfer each. It reports short transfers and errno's as they are.
/// @tparam Transfers Called by all threads at once.
template <class Transfers = PosixTransfers>
class BasicThreadedIoEngine {
 public:
  /// @throws ConfigurationError if there are no threads.
  explicit BasicThreadedIoEngine(ThreadedIoOptions options = {}, Transfers transfers = {})
      : transfers_{std::move(transfers)}, depth_{options.threads} {
    if (depth_ == 0) throw_configuration_error("a ThreadedIoEngine needs at least one thread");
    workers_.reserve(depth_);
    try {
      for (std::size_t i = 0; i < depth_; ++i) workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  BasicThreadedIoEngine(const BasicThreadedIoEngine&) = delete;
  BasicThreadedIoEngine& operator=(const BasicThreadedIoEngine&) = delete;

  /// Carries out what was submitted, callbacks included.
  ~BasicThreadedIoEngine() { stop(); }

  void submit(const IoRequest& request, IoCallback callback) {
    {
      const std::scoped_lock lock{mutex_};
      jobs_.push_back({request, std::move(callback)});
    }
    wake_.notify_one();
  }

  std::size_t queue_depth() const noexcept { return depth_; }
  std::string_view name() const noexcept { return Transfers::name; }

 private:
  struct Job {
    IoRequest request;
    IoCallback callback;
  };

  void stop() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// A worker leaves only when the queue is empty: what a callback submits is found by the worker that ran it.
  void work() {
    std::unique_lock lock{mutex_};
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job.callback(transfers_(job.request));
      job.callback = nullptr;
      lock.lock();
    }
  }

  Transfers transfers_;
  std::size_t depth_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

using ThreadedIoEngine = BasicThreadedIoEngine<>;

static_assert(IoEngine<ThreadedIoEngine>);

}  // namespace zerospan::inline v0
