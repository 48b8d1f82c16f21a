/// @file
/// FirstFailure: the one failure that ends all communicators of a context, and who is told of it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The exception that a failure is thrown as.
inline std::exception_ptr to_error(const Failure& failure) noexcept {
  try {
    throw_failure(failure, {});
  } catch (...) {
    return std::current_exception();
  }
}

/// The first failure is kept, thrown by whatever is called later, and told to each listener once. From any thread.
class FirstFailure {
 public:
  using Listener = std::function<void(std::exception_ptr)>;

  bool exists() const noexcept { return exists_.load(std::memory_order_acquire); }

  /// @throws The kept error, if there is one.
  void check() const {
    if (exists()) std::rethrow_exception(error_);
  }

  /// The kept failure; there is one.
  const Failure& failure() const noexcept { return *failure_; }

  /// Keeps the failure, unless there is one.
  /// @param own What this rank throws, where that differs from what its peers do.
  void keep(Failure first, std::exception_ptr own = nullptr) noexcept {
    {
      const std::scoped_lock lock{mutex_};
      if (exists()) return;
      failure_.emplace(std::move(first));
      error_ = own ? std::move(own) : to_error(*failure_);
      exists_.store(true, std::memory_order_release);
    }
    changed_.notify_all();
  }

  /// Sets whom to tell in the name of `who`; an empty function ends it. When this returns, no former one is running.
  void listen(const void* who, Listener listener) {
    const std::scoped_lock telling{telling_};
    {
      const std::scoped_lock lock{mutex_};
      listeners_.erase(who);
      if (listener) listeners_.emplace(who, std::move(listener));
      untold_ = !listeners_.empty();
    }
    changed_.notify_all();
  }

  /// Tells all who have not been told yet; there is a failure. A listener's own exceptions are dropped.
  void tell() noexcept {
    const std::scoped_lock telling{telling_};
    std::map<const void*, Listener> listeners;
    {
      const std::scoped_lock lock{mutex_};
      listeners.swap(listeners_);
      untold_ = false;
    }
    for (const auto& [who, listener] : listeners) {
      try {
        listener(error_);
      } catch (...) {  // there is nobody to tell
      }
    }
  }

  /// Ends `wait`, now and ever after.
  void stop() noexcept {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_all();
  }

  /// For the thread that checks for failures: waits until its next check is due. Returns after `time`, or sooner if
  /// there is a failure that a listener has not been told of, or if `await_check` was called.
  /// @param told Whether the thread has dealt with the failure, so that only listeners that came later matter.
  /// @return False once stopped.
  bool wait(std::chrono::milliseconds time, bool told) {
    std::unique_lock lock{mutex_};
    const auto has_news = [&] { return exists() ? !told || untold_ : wanted_checks_ > checks_; };
    changed_.wait_for(lock, time, [&] { return stopping_ || has_news(); });
    begun_checks_ = wanted_checks_;
    return !stopping_;
  }

  /// The thread has made the check that `wait` returned for.
  void checked() noexcept {
    {
      const std::scoped_lock lock{mutex_};
      checks_ = begun_checks_;
    }
    changed_.notify_all();
  }

  /// Returns when the thread has made a whole check that began after this call, or there is a failure.
  void await_check() noexcept {
    std::unique_lock lock{mutex_};
    const std::uint64_t check = ++wanted_checks_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return stopping_ || exists() || checks_ >= check; });
  }

 private:
  std::atomic<bool> exists_ = false;
  std::optional<Failure> failure_;  // with the error, constant once it exists
  std::exception_ptr error_;

  std::mutex telling_;  // held while listeners run
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<const void*, Listener> listeners_;
  bool untold_ = false;
  bool stopping_ = false;
  std::uint64_t wanted_checks_ = 0;
  std::uint64_t begun_checks_ = 0;
  std::uint64_t checks_ = 0;
};

/// Keeps the exception being handled as the failure of this rank.
inline void keep_current(FirstFailure& kept, Rank rank) noexcept {
  const std::exception_ptr error = std::current_exception();
  try {
    std::rethrow_exception(error);
  } catch (const CommunicationError& e) {
    kept.keep({Failure::Kind::rank_failed, e.culprit(), e.what()}, error);
  } catch (const std::exception& e) {
    kept.keep({Failure::Kind::rank_failed, rank, describe(rank) + " failed (" + e.what() + ")"}, error);
  } catch (...) {
    kept.keep({Failure::Kind::rank_failed, rank, describe(rank) + " failed"}, error);
  }
}

}  // namespace zerospan::inline v0::detail
