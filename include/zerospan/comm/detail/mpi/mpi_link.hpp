/// @file
/// MpiLink: the duplicate of the host's communicator that all messages go through; the mutex around MPI; how a thread
/// paces its polls.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <thread>

#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/mpi_error.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The level of thread support of the host's MPI: MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE.
/// @throws ConfigurationError if it is less, or if MPI is not initialized, or finalized.
inline int usable_thread_level() {
  int yes = 0;
  MPI_Initialized(&yes);
  if (yes == 0) {
    throw_configuration_error(
        "MPI is not initialized: call MPI_Init_thread with MPI_THREAD_MULTIPLE before an MpiCommunicator is made");
  }
  MPI_Finalized(&yes);
  if (yes != 0) throw_configuration_error("MPI is finalized: an MpiCommunicator is made and destroyed before that");
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  if (level < MPI_THREAD_SERIALIZED) {
    throw_configuration_error(
        "an MpiCommunicator needs MPI_THREAD_MULTIPLE (or MPI_THREAD_SERIALIZED, with the host's own calls inside "
        "exclusive()): pass it to MPI_Init_thread and look at what that provides");
  }
  return level;
}

/// A mutex that threads get in the order in which they asked, so that threads that poll starve none. Under
/// MPI_THREAD_MULTIPLE it does nothing.
class MpiMutex {
 public:
  explicit MpiMutex(int thread_level) noexcept : serializes_{thread_level < MPI_THREAD_MULTIPLE} {}

  void lock() noexcept {
    if (!serializes_) return;
    const std::uint32_t ticket = arrived_.fetch_add(1, std::memory_order_relaxed);
    for (std::uint32_t now = serving_.load(std::memory_order_acquire); now != ticket;
         now = serving_.load(std::memory_order_acquire)) {
      serving_.wait(now, std::memory_order_acquire);
    }
  }

  void unlock() noexcept {
    if (!serializes_) return;
    serving_.fetch_add(1, std::memory_order_release);
    serving_.notify_all();
  }

 private:
  bool serializes_;
  std::atomic<std::uint32_t> arrived_ = 0;
  std::atomic<std::uint32_t> serving_ = 0;
};

/// What a thread polls for: other ranks, which may take long, or messages under way, which some versions of MPI move
/// only while they are polled.
enum class MpiAwaited : std::uint8_t { ranks, messages };

/// How a thread that polls lets others have its core: at first not at all, for as long as what it waits for usually
/// takes; then it yields; and while it waits for ranks that take long, it sleeps a sixteenth of the time waited so far.
class PollPacing {
 public:
  using Clock = std::chrono::steady_clock;

  explicit PollPacing(MpiAwaited awaited) noexcept : awaited_{awaited} {}

  /// Something happened: begins anew.
  void restart() noexcept {
    polls_ = 0;
    waited_ = {};
  }

  /// Whether, after a poll that found nothing, it is time to look at the clock and for announced failures as well.
  bool is_time_for_rare_checks() const noexcept { return polls_ % 16 == 15 || waited_ > yield; }

  /// Called between two polls that found nothing.
  void pause() {
    if (++polls_ < 16) return;
    const Clock::time_point now = Clock::now();
    if (polls_ == 16) began_ = now;
    waited_ = now - began_;
    if (waited_ < (awaited_ == MpiAwaited::ranks ? spin_for_ranks : spin_for_messages)) return;
    if (waited_ < yield || awaited_ == MpiAwaited::messages) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(waited_ / 16, longest_sleep));
    }
  }

 private:
  static constexpr std::chrono::microseconds spin_for_ranks{10};
  static constexpr std::chrono::microseconds spin_for_messages{100};
  static constexpr std::chrono::milliseconds yield{1};
  static constexpr std::chrono::microseconds longest_sleep{200};

  MpiAwaited awaited_;
  std::uint64_t polls_ = 0;
  Clock::time_point began_;
  Clock::duration waited_{};
};

/// @return The moment at which so much time will have passed, if that is less than a year.
inline PollPacing::Clock::time_point moment_after(std::chrono::milliseconds time) {
  return PollPacing::Clock::now() + std::min<std::chrono::milliseconds>(time, std::chrono::years{1});
}

/// A duplicate of the host's communicator that returns errors instead of aborting. All messages among zerospan's ranks
/// go through it, told apart by tags.
class MpiLink {
 public:
  /// A collective of the host's communicator, which stays the host's.
  /// @throws ConfigurationError where MPI is not as it has to be; TimeoutError if not every rank takes part in time.
  MpiLink(MPI_Comm host, const MpiOptions& options) : mutex_{usable_thread_level()}, options_{options} {
    require_valid(options);
    require_ranks(host);
    handle_ = duplicate(host);
    ask("MPI_Comm_set_errhandler", [&] { return MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN); });
    ask("MPI_Comm_rank", [&] { return MPI_Comm_rank(handle_, &rank_); });
    ask("MPI_Comm_size", [&] { return MPI_Comm_size(handle_, &size_); });
    int* largest = nullptr;
    int has_value = 0;
    ask("MPI_Comm_get_attr",
        [&] { return MPI_Comm_get_attr(handle_, MPI_TAG_UB, static_cast<void*>(&largest), &has_value); });
    if (has_value != 0) largest_tag_ = *largest;
  }
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  MPI_Comm handle() const noexcept { return handle_; }
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int largest_tag() const noexcept { return largest_tag_; }
  const MpiOptions& options() const noexcept { return options_; }
  MpiMutex& mutex() noexcept { return mutex_; }

  /// Calls an MPI function, under the mutex where MPI serves one thread at a time.
  /// @throws MpiError if the function does not succeed; RankFailedError in a forked process, which has no MPI.
  template <class Function>
  void ask(std::string_view name, Function function) {
    home_.require(Rank{rank_});
    const std::lock_guard lock{mutex_};
    check_mpi(function(), name);
  }

  /// Frees the duplicate: no message is under way or unread. Without it the duplicate stays until MPI is finalized,
  /// so that no later communicator can receive what was meant for this one.
  void free() noexcept {
    if (is_copy()) return;
    const std::lock_guard lock{mutex_};
    MPI_Comm_free(&handle_);
  }

  /// Whether this is what a fork has made of a link, which calls MPI no more.
  bool is_copy() const noexcept { return home_.was_left(); }

  static bool is_finalized() noexcept {
    int yes = 0;
    MPI_Finalized(&yes);
    return yes != 0;
  }

 private:
  static void require_ranks(MPI_Comm host) {
    int connects_two_groups = 0;
    if (host != MPI_COMM_NULL) check_mpi(MPI_Comm_test_inter(host, &connects_two_groups), "MPI_Comm_test_inter");
    if (host == MPI_COMM_NULL || connects_two_groups != 0) {
      throw_configuration_error("an MpiCommunicator is made from one group of ranks: " +
                                std::string{host == MPI_COMM_NULL ? "MPI_COMM_NULL" : "an intercommunicator"} +
                                " is not one");
    }
  }

  MPI_Comm duplicate(MPI_Comm host) {
    auto handle = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
    MPI_Request request = MPI_REQUEST_NULL;
    ask("MPI_Comm_idup", [&] { return MPI_Comm_idup(host, handle.get(), &request); });
    const auto deadline = moment_after(options_.timeout);
    PollPacing pacing{MpiAwaited::ranks};
    for (int is_done = 0; is_done == 0; pacing.pause()) {
      if (PollPacing::Clock::now() > deadline) {
        static_cast<void>(handle.release());  // MPI may write to it yet
        throw TimeoutError{"not every rank of the host's communicator made its MpiCommunicator within " +
                               std::to_string(options_.timeout.count()) + " ms",
                           std::source_location::current()};
      }
      ask("MPI_Test", [&] { return MPI_Test(&request, &is_done, MPI_STATUS_IGNORE); });
    }
    return *handle;
  }

  HomeProcess home_;
  MpiMutex mutex_;
  MpiOptions options_;
  MPI_Comm handle_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int largest_tag_ = 32767;  // the least that the standard allows
};

}  // namespace zerospan::inline v0::detail
