/// @file
/// ThreadedIoEngine: blocking transfers on worker threads; pread and pwrite, for any file on any POSIX system.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/detail/start_thread.hpp>
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
  /// @throws ConfigurationError if no threads are asked for, or the system refuses one.
  explicit BasicThreadedIoEngine(ThreadedIoOptions options = {}, Transfers transfers = {})
      : depth_{options.threads}, queue_{std::make_shared<Queue>(std::move(transfers))} {
    if (depth_ == 0) throw_configuration_error("a ThreadedIoEngine needs at least one thread");
    workers_.reserve(depth_);
    try {
      for (std::size_t i = 0; i < depth_; ++i) {
        workers_.push_back(detail::start_thread(
            "thread " + std::to_string(i + 1) + " of " + std::to_string(depth_) + " of a ThreadedIoEngine",
            [queue = queue_] { queue->work(); }));
      }
    } catch (...) {
      stop();
      throw;
    }
  }

  BasicThreadedIoEngine(const BasicThreadedIoEngine&) = delete;
  BasicThreadedIoEngine& operator=(const BasicThreadedIoEngine&) = delete;

  /// Carries out what was submitted, callbacks included. In a child process it does nothing.
  ~BasicThreadedIoEngine() {
    if (process_.is_this()) {
      stop();
    } else {
      for (std::thread& worker : workers_) worker.detach();  // their share in the queue is never given back
    }
  }

  /// @throws ConfigurationError in a child process.
  void submit(const IoRequest& request, IoCallback callback) {
    process_.check("a ThreadedIoEngine");
    queue_->push({request, std::move(callback)});
  }

  std::size_t queue_depth() const noexcept { return depth_; }
  std::string_view name() const noexcept { return Transfers::name; }

 private:
  struct Job {
    IoRequest request;
    IoCallback callback;
  };

  /// What the threads share.
  class Queue {
   public:
    explicit Queue(Transfers transfers) : transfers_{std::move(transfers)} {}

    void push(Job job) {
      {
        const std::scoped_lock lock{mutex_};
        jobs_.push_back(std::move(job));
      }
      wake_.notify_one();
    }

    /// Takes jobs until `close` was called and none is left: what a callback submits is found by the worker that ran
    /// it.
    void work() {
      std::unique_lock lock{mutex_};
      while (true) {
        wake_.wait(lock, [&] { return is_closed_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        Job job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job.callback(transfers_(job.request));
        job.callback = nullptr;
        lock.lock();
      }
    }

    void close() {
      {
        const std::scoped_lock lock{mutex_};
        is_closed_ = true;
      }
      wake_.notify_all();
    }

   private:
    Transfers transfers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Job> jobs_;
    bool is_closed_ = false;
  };

  void stop() {
    queue_->close();
    for (std::thread& worker : workers_) worker.join();
  }

  detail::OwnProcess process_;
  std::size_t depth_;
  std::shared_ptr<Queue> queue_;
  std::vector<std::thread> workers_;
};

using ThreadedIoEngine = BasicThreadedIoEngine<>;

static_assert(IoEngine<ThreadedIoEngine>);

#if defined(ZEROSPAN_COMPILED)  // by the target zerospan::compiled, which has it
extern template class BasicThreadedIoEngine<PosixTransfers>;
#endif

}  // namespace zerospan::inline v0
