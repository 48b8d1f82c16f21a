/// @file
/// UringEngine: Linux's io_uring. Asynchronous on any descriptor. Link with liburing.
#pragma once

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
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
#include <zerospan/core/units.hpp>
#include <zerospan/io/io_engine.hpp>

namespace zerospan::inline v0 {

struct UringOptions {
  std::size_t queue_depth = 32;  ///< Requests with the kernel at once.

  /// Memory that most transfers are in or out of, as an arena's: `{{arena.data(), arena.capacity().count}}`. The kernel
  /// is told of it once, instead of at each request, and keeps all of it in memory (it counts against `ulimit -l`).
  /// It outlives the engine. A child process that `fork` makes gets a copy of it at once.
  std::vector<std::span<std::byte>> memory{};
};

/// A request that has ended.
struct UringResult {
  std::uint64_t request;  ///< The user data that it was submitted with.
  int result;
};

/// The system calls that a UringEngine makes; each returns a count, a descriptor or 0, or a negative errno.
struct UringCalls {
  int setup(unsigned depth, io_uring* ring) const noexcept {
    const int result = ::io_uring_queue_init(depth, ring, 0);
    if (result != 0 || (ring->features & IORING_FEAT_RW_CUR_POS) != 0) return result;
    ::io_uring_queue_exit(ring);
    return -ENOSYS;  // kernels before 5.6 have no plain reads and writes
  }
  void end(io_uring* ring) const noexcept { ::io_uring_queue_exit(ring); }

  /// A counter that goes up whenever a request ends.
  int open_event(io_uring* ring) const noexcept {
    const int event = ::eventfd(0, EFD_CLOEXEC);
    if (event == -1) return -errno;
    const int result = ::io_uring_register_eventfd(ring, event);
    if (result == 0) return event;
    ::close(event);
    return result;
  }
  /// Returns after a second at the latest: should a signal ever get lost, requests are late, and nobody waits for ever.
  int wait(int event) const noexcept {
    constexpr int second = 1000;
    pollfd signalled{event, POLLIN, 0};
    const int result = ::poll(&signalled, 1, second);
    if (result <= 0) return result == 0 ? 0 : -errno;
    eventfd_t count = 0;
    return ::eventfd_read(event, &count) == 0 ? 0 : -errno;
  }

  int register_memory(io_uring* ring, const iovec* ranges, unsigned count) const noexcept {
    return ::io_uring_register_buffers(ring, ranges, count);
  }
  int unregister_memory(io_uring* ring) const noexcept { return ::io_uring_unregister_buffers(ring); }

  int submit(io_uring* ring) const noexcept { return ::io_uring_submit(ring); }

  std::optional<UringResult> next_result(io_uring* ring) const noexcept {
    io_uring_cqe* entry = nullptr;
    if (::io_uring_peek_cqe(ring, &entry) != 0) return std::nullopt;
    const UringResult ended{entry->user_data, entry->res};
    ::io_uring_cqe_seen(ring, entry);
    return ended;
  }
};

/// An engine over one ring. Whoever submits queues its requests; one thread hands them to the kernel, which ends what a
/// thread has handed over when that thread ends, and calls back. It sleeps while there is nothing to do, and neither it
/// nor the kernel asks disks or memory in a loop.
///
/// A write is a call to the kernel of its own: those of one call are merged into larger requests, which cost 13% on
/// some disks and bring nothing on others. Reads share calls, which takes a quarter less CPU.
///
/// Transfers in registered memory are as fast as others and cost less CPU. Of what reading 2.4 GB/s in blocks of 1 MiB
/// takes of a core, a quarter less where pages are huge (1.3 instead of 1.7%), two thirds less where they are ordinary
/// (3 instead of 10%). Registered files save nothing measurable on top of it, and there are none.
///
/// What the kernel does not take at once is handed over again when something completes; if nothing is under way, its
/// errno goes to the callback.
///
/// @tparam Calls The system calls; a substitute serves fault injection.
template <class Calls = UringCalls>
class BasicUringEngine {
 public:
  /// Memory that cannot be registered is none of the errors: `registration_error` tells.
  /// @throws ConfigurationError if the kernel (or a sandbox) refuses a ring of that depth, or a thread.
  explicit BasicUringEngine(const UringOptions& options = {}, Calls calls = {})
      : queue_{std::make_shared<Queue>(options, std::move(calls))},
        thread_{detail::start_thread("the thread of a UringEngine", [queue = queue_] { queue->run(); })} {}

  BasicUringEngine(const BasicUringEngine&) = delete;
  BasicUringEngine& operator=(const BasicUringEngine&) = delete;

  /// Carries out what was submitted, callbacks included. In a child process it does nothing.
  ~BasicUringEngine() {
    if (process_.is_this()) {
      queue_->close();
      thread_.join();
    } else {
      thread_.detach();  // its share in the queue is never given back
    }
  }

  /// True if this kernel (and this sandbox) offers io_uring.
  static bool available() noexcept {
    const Calls calls{};
    io_uring ring{};
    if (calls.setup(1, &ring) != 0) return false;
    calls.end(&ring);
    return true;
  }

  /// @throws ConfigurationError in a child process.
  void submit(const IoRequest& request, IoCallback callback) {
    process_.check("a UringEngine");
    queue_->submit(request, std::move(callback));
  }

  std::size_t queue_depth() const noexcept { return queue_->depth(); }
  std::string_view name() const noexcept { return "io_uring"; }

  /// Bytes of the memory that the kernel has registered: all that it was given, or none.
  Bytes registered_memory() const noexcept { return queue_->memory().bytes(); }

  /// Why it is none; no error if it is not. ENOMEM: the limit of locked memory (`ulimit -l`).
  std::error_code registration_error() const noexcept { return queue_->memory().error(); }

 private:
  struct Job {
    IoRequest request;
    IoCallback callback;
  };

  /// A request with the kernel, or on its way there.
  struct Slot {
    Job job;
    io_uring_sqe* entry = nullptr;
  };

  struct Outcome {
    IoCallback callback;
    std::int64_t result;
  };

  class Ring {
   public:
    Ring(std::size_t depth, Calls calls_to_make) : calls{std::move(calls_to_make)} {
      constexpr std::size_t deepest = std::numeric_limits<int>::max();
      const int result = depth == 0 || depth > deepest ? -EINVAL : calls.setup(static_cast<unsigned>(depth), &handle);
      if (result != 0) refuse(depth, -result);
      event = calls.open_event(&handle);
      if (event >= 0) return;
      calls.end(&handle);
      refuse(depth, -event);
    }
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;
    ~Ring() {
      calls.end(&handle);
      ::close(event);
    }

    Calls calls;
    io_uring handle{};
    int event = -1;  ///< Signalled when requests end or begin.

   private:
    [[noreturn]] static void refuse(std::size_t depth, int error_number) {
      throw_configuration_error("io_uring for " + std::to_string(depth) +
                                " requests failed: " + std::generic_category().message(error_number) + "; " +
                                advice(error_number) + ", or use another engine");
    }

    static std::string advice(int error_number) {
      switch (error_number) {
        case EPERM:
        case EACCES:
          return "allow it (kernel.io_uring_disabled, the sandbox's seccomp filter)";
        case ENOSYS:
          return "allow it in the sandbox if the kernel has it (5.6 or later)";
        case EMFILE:
        case ENFILE:
          return "raise the limit of descriptors (ulimit -n)";
        case ENOMEM:
          return "lower the queue depth, raise the limit of locked memory (ulimit -l)";
        default:
          return "lower the queue depth";
      }
    }
  };

  /// Memory that the kernel knows until the object ends, be the ring's descriptor open in a child process or not.
  class RegisteredMemory {
   public:
    RegisteredMemory(Ring& ring, const std::vector<std::span<std::byte>>& memory) : ring_{&ring} {
      for (const std::span<std::byte> range : memory) {
        for (std::size_t done = 0; done < range.size(); done += largest) {
          pieces_.push_back({range.data() + done, std::min(largest, range.size() - done)});
        }
      }
      if (pieces_.empty()) return;
      std::ranges::sort(pieces_, std::less<>{}, &iovec::iov_base);
      const int result =
          ring.calls.register_memory(&ring.handle, pieces_.data(), static_cast<unsigned>(pieces_.size()));
      if (result >= 0) return;
      error_number_ = -result;
      pieces_.clear();
    }
    RegisteredMemory(const RegisteredMemory&) = delete;
    RegisteredMemory& operator=(const RegisteredMemory&) = delete;
    ~RegisteredMemory() {
      if (!pieces_.empty()) ring_->calls.unregister_memory(&ring_->handle);
    }

    Bytes bytes() const noexcept {
      Bytes all{0};
      for (const iovec& piece : pieces_) all.count += piece.iov_len;
      return all;
    }

    std::error_code error() const noexcept { return {error_number_, std::generic_category()}; }

    /// The number of the piece that has the whole range; none if no piece has.
    std::optional<std::uint16_t> find(const std::byte* data, std::size_t bytes) const noexcept {
      const auto after = std::ranges::upper_bound(pieces_, data, std::less<const void*>{}, &iovec::iov_base);
      if (after == pieces_.begin()) return std::nullopt;
      const auto piece = after - 1;
      const auto offset = static_cast<std::size_t>(data - static_cast<const std::byte*>(piece->iov_base));
      if (offset > piece->iov_len || bytes > piece->iov_len - offset) return std::nullopt;
      return static_cast<std::uint16_t>(piece - pieces_.begin());
    }

   private:
    static constexpr std::size_t largest = std::size_t{1} << 30;  // the kernel takes no larger ones

    Ring* ring_;
    std::vector<iovec> pieces_;  ///< Sorted by address.
    int error_number_ = 0;
  };

  /// What the submitting threads and the engine's own share.
  class Queue {
   public:
    Queue(const UringOptions& options, Calls calls)
        : ring_{options.queue_depth, std::move(calls)}, memory_{ring_, options.memory}, slots_(options.queue_depth) {
      for (auto* slots : {&free_, &taken_, &prepared_}) slots->reserve(depth());
      outcomes_.reserve(2 * depth());
      for (Slot& slot : slots_) free_.push_back(&slot);
    }

    std::size_t depth() const noexcept { return slots_.size(); }
    const RegisteredMemory& memory() const noexcept { return memory_; }

    void submit(const IoRequest& request, IoCallback callback) {
      {
        const std::scoped_lock lock{mutex_};
        backlog_.push_back({request, std::move(callback)});
        if (!std::exchange(is_waiting_for_requests_, false)) return;
      }
      wake();
    }

    /// Carries out and calls back, until `close` was called and nothing is left.
    void run() {
      while (true) {
        collect();
        switch (take()) {
          case Next::transfer:
            hand_over();  // first, so that the device stays busy
            for (Outcome& outcome : outcomes_) outcome.callback(outcome.result);
            outcomes_.clear();
            break;
          case Next::wait:
            ring_.calls.wait(ring_.event);  // it may be interrupted
            break;
          case Next::end:
            return;
        }
      }
    }

    void close() {
      {
        const std::scoped_lock lock{mutex_};
        is_closed_ = true;
      }
      wake();
    }

   private:
    enum class Next : std::uint8_t { transfer, wait, end };

    void wake() const noexcept { ::eventfd_write(ring_.event, 1); }

    /// Frees the slots of the requests that have ended.
    void collect() {
      while (const std::optional<UringResult> ended = ring_.calls.next_result(&ring_.handle)) {
        if (ended->request == 0) continue;
        end(*reinterpret_cast<Slot*>(ended->request), ended->result);
        --in_kernel_;
      }
    }

    void end(Slot& slot, std::int64_t result) {
      outcomes_.push_back({std::exchange(slot.job.callback, nullptr), result});
      free_.push_back(&slot);
    }

    /// Moves requests from the backlog into free slots, and tells what is to be done.
    Next take() {
      const std::scoped_lock lock{mutex_};
      is_waiting_for_requests_ = false;
      while (!backlog_.empty() && !free_.empty()) {
        taken_.push_back(free_.back());
        free_.pop_back();
        taken_.back()->job = std::move(backlog_.front());
        backlog_.pop_front();
      }
      if (!taken_.empty() || !outcomes_.empty()) return Next::transfer;
      if (is_closed_ && free_.size() == slots_.size()) return Next::end;
      is_waiting_for_requests_ = !free_.empty();
      return Next::wait;
    }

    /// Hands the requests that were taken to the kernel.
    void hand_over() {
      for (Slot* slot : taken_) {
        if (slot->job.request.offset > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
          end(*slot, -EINVAL);  // the kernel takes the largest of them for the file's own position
        } else if ((slot->entry = free_entry()) == nullptr) {
          end(*slot, -EAGAIN);
        } else {
          prepare(*slot);
          if (slot->job.request.direction == IoDirection::write) submit_prepared();
        }
      }
      taken_.clear();
      submit_prepared();
    }

    /// A free entry of the ring; nullptr if the kernel takes nothing.
    io_uring_sqe* free_entry() {
      if (io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_.handle)) return entry;
      count_accepted(ring_.calls.submit(&ring_.handle));
      return ::io_uring_get_sqe(&ring_.handle);
    }

    void prepare(Slot& slot) {
      constexpr std::size_t most = 0x7ffff000;  // what the kernel moves at once
      const IoRequest& request = slot.job.request;
      const auto bytes = static_cast<unsigned>(std::min(request.bytes, most));
      const std::optional<std::uint16_t> registered = memory_.find(request.data, bytes);
      const bool is_read = request.direction == IoDirection::read;
      const int operation = registered ? (is_read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED)
                                       : (is_read ? IORING_OP_READ : IORING_OP_WRITE);
      ::io_uring_prep_rw(operation, slot.entry, request.file_descriptor, request.data, bytes, request.offset);
      slot.entry->buf_index = registered.value_or(0);
      slot.entry->user_data = reinterpret_cast<std::uint64_t>(&slot);
      prepared_.push_back(&slot);
    }

    /// Has the kernel take what is prepared.
    void submit_prepared() {
      while (!prepared_.empty()) {
        const int accepted = ring_.calls.submit(&ring_.handle);
        if (accepted > 0) {
          count_accepted(accepted);
        } else if (accepted == 0 || accepted == -EAGAIN || accepted == -EBUSY) {
          if (in_kernel_ > 0) return;  // a completion makes room, and calls this again
          abandon_prepared(-EAGAIN);
        } else if (accepted != -EINTR) {
          abandon_prepared(accepted);
        }
      }
    }

    void count_accepted(int accepted) {
      if (accepted <= 0) return;
      const auto all = static_cast<std::size_t>(accepted);
      const std::size_t without_slot = std::min(all, abandoned_);
      abandoned_ -= without_slot;
      in_kernel_ += all - without_slot;
      prepared_.erase(prepared_.begin(), prepared_.begin() + static_cast<std::ptrdiff_t>(all - without_slot));
    }

    /// Requests that the kernel has not taken end. Their entries stay in the ring, and do nothing if it takes them yet.
    void abandon_prepared(std::int64_t result) {
      for (Slot* slot : prepared_) {
        ::io_uring_prep_nop(slot->entry);
        slot->entry->user_data = 0;
        end(*slot, result);
      }
      abandoned_ += prepared_.size();
      prepared_.clear();
    }

    Ring ring_;
    RegisteredMemory memory_;
    std::mutex mutex_;  // of the three that follow
    std::deque<Job> backlog_;
    bool is_waiting_for_requests_ = false;
    bool is_closed_ = false;

    // Used by the engine's thread alone.
    std::vector<Slot> slots_;
    std::vector<Slot*> free_;
    std::vector<Slot*> taken_;     ///< From the backlog, on their way to the ring.
    std::vector<Slot*> prepared_;  ///< In the ring, in its order, and not accepted by the kernel yet.
    std::size_t abandoned_ = 0;    ///< Entries before those of `prepared_`.
    std::size_t in_kernel_ = 0;
    std::vector<Outcome> outcomes_;
  };

  detail::OwnProcess process_;
  std::shared_ptr<Queue> queue_;
  std::thread thread_;
};

using UringEngine = BasicUringEngine<>;

static_assert(IoEngine<UringEngine>);

}  // namespace zerospan::inline v0
