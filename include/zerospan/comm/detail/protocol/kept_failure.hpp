/// @file
/// KeptFailure: the one failure that ends a family of communicators, and who is told of it.
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

#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The error as which a failure is thrown.
inline std::exception_ptr to_error(const Failure& failure) noexcept {
  try {
    throw_failure(failure, {});
  } catch (...) {
    return std::current_exception();
  }
}

/// The first failure is kept, thrown by whatever is called later, and told to each listener once. From any thread.
class KeptFailure {
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
      } catch (...) {  // nobody is there to be told of it
      }
    }
  }

  /// Wakes `wait`.
  void stop() noexcept {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_all();
  }

  /// Returns after `time`, or when there is a failure to tell somebody of, or somebody waits for a look. False once
  /// stopped.
  /// @param told Whether the failure has been dealt with, so that only late listeners matter.
  bool wait(std::chrono::milliseconds time, bool told) {
    std::unique_lock lock{mutex_};
    const auto has_news = [&] { return exists() ? !told || untold_ : wanted_looks_ > looks_; };
    changed_.wait_for(lock, time, [&] { return stopping_ || has_news(); });
    begun_looks_ = wanted_looks_;
    return !stopping_;
  }

  /// Whoever waits has looked for failures since `wait` returned.
  void looked() noexcept {
    {
      const std::scoped_lock lock{mutex_};
      looks_ = begun_looks_;
    }
    changed_.notify_all();
  }

  /// Returns when whoever waits has looked once more, or there is a failure.
  void look_again() noexcept {
    std::unique_lock lock{mutex_};
    const std::uint64_t look = ++wanted_looks_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return stopping_ || exists() || looks_ >= look; });
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
  std::uint64_t wanted_looks_ = 0;
  std::uint64_t begun_looks_ = 0;
  std::uint64_t looks_ = 0;
};

/// Keeps the exception being handled, as which this rank fails.
inline void keep_current(KeptFailure& kept, Rank rank) noexcept {
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
