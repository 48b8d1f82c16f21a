/// @file
/// LibaioEngine: Linux asynchronous I/O. Asynchronous on descriptors with O_DIRECT alone. Link with libaio.
#pragma once

#include <libaio.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/detail/start_thread.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/io/io_engine.hpp>

namespace zerospan::inline v0 {

struct LibaioOptions {
  std::size_t queue_depth = 32;  ///< Requests with the kernel at once; it counts against fs.aio-max-nr.
};

/// The system calls that a LibaioEngine makes; each returns a count or a negative errno.
struct LibaioCalls {
  int setup(int depth, io_context_t* context) const noexcept { return ::io_setup(depth, context); }
  int submit(io_context_t context, long count, iocb** requests) const noexcept {
    return ::io_submit(context, count, requests);
  }
  int get_events(io_context_t context, long count, io_event* events) const noexcept {
    return ::io_getevents(context, 1, count, events, nullptr);
  }
  int destroy(io_context_t context) const noexcept { return ::io_destroy(context); }
};

/// An engine over one kernel context. Whoever submits hands requests to the kernel, as many as it takes; one thread
/// reaps. It sleeps while nothing is with the kernel, and nothing ever polls.
///
/// A write is a call to the kernel of its own: those of one call are merged into larger requests, which cost 13% on
/// some disks and bring nothing on others. Reads share calls.
///
/// A request that io_submit refuses gets its errno through its callback, at the latest when the next request ends.
/// What does not fit in the kernel's queue (or meets EAGAIN) is handed over when something completes.
///
/// @tparam Calls The system calls; a substitute serves fault injection.
template <class Calls = LibaioCalls>
class BasicLibaioEngine {
 public:
  /// @throws ConfigurationError if the kernel refuses a context of that depth, or a thread.
  explicit BasicLibaioEngine(LibaioOptions options = {}, Calls calls = {})
      : queue_{std::make_shared<Queue>(options.queue_depth, std::move(calls))},
        reaper_{detail::start_thread("the thread of a LibaioEngine", [queue = queue_] { queue->reap(); })} {}

  BasicLibaioEngine(const BasicLibaioEngine&) = delete;
  BasicLibaioEngine& operator=(const BasicLibaioEngine&) = delete;

  /// Carries out what was submitted, callbacks included. In a child process it does nothing.
  ~BasicLibaioEngine() {
    if (process_.is_this()) {
      queue_->close();
      reaper_.join();
    } else {
      reaper_.detach();  // its share in the queue is never given back
    }
  }

  /// True if this kernel (and this sandbox) offers asynchronous I/O.
  static bool available() noexcept {
    const Calls calls{};
    io_context_t context{};
    return calls.setup(1, &context) == 0 && calls.destroy(context) == 0;
  }

  /// @throws ConfigurationError in a child process.
  void submit(const IoRequest& request, IoCallback callback) {
    process_.check("a LibaioEngine");
    queue_->submit(request, std::move(callback));
  }

  std::size_t queue_depth() const noexcept { return queue_->depth(); }
  std::string_view name() const noexcept { return "libaio"; }

 private:
  struct Job {
    IoRequest request;
    IoCallback callback;
  };

  /// A request with the kernel, or on its way there or back.
  struct Slot {
    iocb control;
    IoCallback callback;
    std::int64_t result;
  };

  struct Outcome {
    IoCallback callback;
    std::int64_t result;
  };

  struct Context {
    Context(std::size_t depth, Calls calls_to_make) : calls{std::move(calls_to_make)} {
      constexpr std::size_t deepest = std::numeric_limits<int>::max();
      const int result = depth == 0 || depth > deepest ? -EINVAL : calls.setup(static_cast<int>(depth), &handle);
      if (result != 0) {
        throw_configuration_error("io_setup for " + std::to_string(depth) +
                                  " requests failed: " + std::generic_category().message(-result) +
                                  "; lower the queue depth, raise fs.aio-max-nr, or use a ThreadedIoEngine");
      }
    }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    ~Context() { calls.destroy(handle); }

    Calls calls;
    io_context_t handle{};
  };

  /// What the submitting threads and the reaper share.
  class Queue {
   public:
    Queue(std::size_t depth, Calls calls) : context_{depth, std::move(calls)}, slots_(depth), events_(depth) {
      for (auto* slots : {&free_, &refused_, &finished_}) slots->reserve(depth);
      ready_.reserve(depth);
      outcomes_.reserve(depth);
      for (Slot& slot : slots_) free_.push_back(&slot);
    }

    std::size_t depth() const noexcept { return slots_.size(); }

    void submit(const IoRequest& request, IoCallback callback) {
      std::unique_lock lock{mutex_};
      backlog_.push_back({request, std::move(callback)});
      pump(lock);
    }

    /// Calls back, until `close` was called and nothing is left.
    void reap() {
      std::unique_lock lock{mutex_};
      while (true) {
        wake_.wait(lock, [&] { return in_kernel_ > 0 || !refused_.empty() || (stopping_ && idle()); });
        if (in_kernel_ <= 0 && refused_.empty()) return;
        if (refused_.empty()) await_events(lock);
        finished_.insert(finished_.end(), refused_.begin(), refused_.end());
        refused_.clear();
        for (Slot* slot : finished_) {
          outcomes_.push_back({std::exchange(slot->callback, nullptr), slot->result});
          free_.push_back(slot);
        }
        finished_.clear();
        pump(lock);  // first, so that the device stays busy
        lock.unlock();
        for (Outcome& outcome : outcomes_) outcome.callback(outcome.result);
        outcomes_.clear();
        lock.lock();
      }
    }

    void close() {
      {
        const std::scoped_lock lock{mutex_};
        stopping_ = true;
      }
      wake_.notify_one();
    }

   private:
    /// Moves requests from the backlog into free slots. True if there is something to submit.
    bool prepare() noexcept {
      while (!backlog_.empty() && !free_.empty()) {
        Slot& slot = *free_.back();
        free_.pop_back();
        const IoRequest& request = backlog_.front().request;
        const auto prepare_transfer = request.direction == IoDirection::read ? ::io_prep_pread : ::io_prep_pwrite;
        prepare_transfer(&slot.control, request.file_descriptor, request.data, request.bytes,
                         static_cast<long long>(request.offset));
        slot.control.data = &slot;
        slot.callback = std::move(backlog_.front().callback);
        backlog_.pop_front();
        ready_.push_back(&slot.control);
      }
      return !ready_.empty();
    }

    /// Hands requests to the kernel for as long as it takes them. One thread at a time does so, without the lock;
    /// others leave theirs to it.
    void pump(std::unique_lock<std::mutex>& lock) noexcept {
      if (pumping_) return;
      pumping_ = true;
      while (prepare()) {
        const std::uint64_t reaped = reaped_;
        lock.unlock();
        const int accepted = context_.calls.submit(context_.handle, requests_of_call(), ready_.data());
        lock.lock();
        if (accepted > 0) {
          ready_.erase(ready_.begin(), ready_.begin() + accepted);
          in_kernel_ += accepted;
          wake_.notify_one();
        } else if (accepted != 0 && accepted != -EAGAIN && accepted != -EINTR) {
          refuse_first(accepted);
        } else if (in_kernel_ > 0) {
          break;  // the reaper goes on from here
        } else if (reaped_ == reaped) {
          refuse_first(-EAGAIN);  // nothing will complete that could make room
        }
      }
      pumping_ = false;
    }

    /// How many of those that are ready the next call hands over.
    long requests_of_call() const noexcept {
      const auto is_write = [](const iocb* request) { return request->aio_lio_opcode == IO_CMD_PWRITE; };
      const auto reads = std::ranges::find_if(ready_, is_write) - ready_.begin();
      return std::max(static_cast<long>(reads), 1L);
    }

    void refuse_first(std::int64_t result) noexcept {
      Slot* slot = static_cast<Slot*>(ready_.front()->data);
      ready_.erase(ready_.begin());
      slot->result = result;
      refused_.push_back(slot);
      wake_.notify_one();
    }

    bool idle() const noexcept {
      return backlog_.empty() && ready_.empty() && refused_.empty() && in_kernel_ == 0 && !pumping_;
    }

    /// Blocks until requests end and moves their slots to `finished_`. Interruptions yield none.
    void await_events(std::unique_lock<std::mutex>& lock) {
      lock.unlock();
      const int count = context_.calls.get_events(context_.handle, static_cast<long>(events_.size()), events_.data());
      lock.lock();
      for (int i = 0; i < count; ++i) {
        const io_event& event = events_[static_cast<std::size_t>(i)];
        Slot* slot = static_cast<Slot*>(event.data);
        slot->result = static_cast<std::int64_t>(event.res);
        finished_.push_back(slot);
        --in_kernel_;
        ++reaped_;
      }
    }

    Context context_;
    std::vector<Slot> slots_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Job> backlog_;
    std::vector<Slot*> free_;
    std::vector<iocb*> ready_;    ///< In slots, not accepted by the kernel yet; used by whoever pumps.
    std::vector<Slot*> refused_;  ///< By io_submit, with the errno.
    std::int64_t in_kernel_ = 0;  ///< Accepted less reaped; it lags behind the kernel while somebody pumps.
    std::uint64_t reaped_ = 0;
    bool pumping_ = false;
    bool stopping_ = false;

    // Used by the reaper alone.
    std::vector<io_event> events_;
    std::vector<Slot*> finished_;
    std::vector<Outcome> outcomes_;
  };

  detail::OwnProcess process_;
  std::shared_ptr<Queue> queue_;
  std::thread reaper_;
};

using LibaioEngine = BasicLibaioEngine<>;

static_assert(IoEngine<LibaioEngine>);

}  // namespace zerospan::inline v0
