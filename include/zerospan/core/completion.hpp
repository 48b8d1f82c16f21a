/// @file
/// Completion: what asynchronous I/O and posted work return. Promise: its other end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

namespace detail {

template <class F>
class PreparedJoin;

}  // namespace detail

/// The end of an asynchronous operation: wait for it, poll it, or chain to it. It carries the operation's error.
/// Copies refer to the same operation. A default-constructed one is done.
///
/// @note Thread-safe. A completion that is dropped does not cancel anything.
class Completion {
 public:
  Completion() noexcept = default;

  bool done() const noexcept;

  /// The error of a finished operation, or nullptr.
  std::exception_ptr error() const noexcept;

  /// Blocks until the operation ends; rethrows its error.
  void wait() const;

  /// Blocks until the operation ends or the deadline passes. True if it ended (well or not).
  bool wait_until(std::chrono::steady_clock::time_point deadline) const;

  /// Calls `continuation(error)` when the operation ends, on the thread that ends it (at once if it has ended).
  /// The continuation must not throw.
  void then(std::function<void(std::exception_ptr)> continuation) const;

  /// What the operation is, for the error of whoever waits for it in vain.
  std::string label() const { return state_ ? state_->label : std::string{"nothing"}; }

  /// A number that the device which made this completion uses to find its record (virtual time); 0 elsewhere.
  std::uint64_t ticket() const noexcept { return ticket_; }

 private:
  friend class Promise;
  template <class F>
  friend class detail::PreparedJoin;

  using Continuations = std::list<std::function<void(std::exception_ptr)>>;

  struct State {
    mutable std::mutex mutex;
    std::condition_variable ended;
    bool done = false;
    std::exception_ptr error;
    Continuations continuations;
    std::string label;
  };

  Completion(std::shared_ptr<State> state, std::uint64_t ticket) noexcept : state_{std::move(state)}, ticket_{ticket} {}

  /// `then` for continuations that have their memory already.
  void then(Continuations&& prepared) const noexcept;

  std::shared_ptr<State> state_;
  std::uint64_t ticket_ = 0;
};

/// The side that ends an operation, exactly once. A promise destroyed before that fails its completion,
/// so that nobody waits for ever.
class Promise {
 public:
  explicit Promise(std::string label, std::uint64_t ticket = 0)
      : state_{std::make_shared<Completion::State>()}, ticket_{ticket} {
    state_->label = std::move(label);
  }
  Promise(Promise&&) noexcept = default;
  Promise& operator=(Promise&&) = delete;
  ~Promise();

  Completion completion() const noexcept { return completion(ticket_); }

  /// One of many completions that end together, with a ticket of its own.
  Completion completion(std::uint64_t ticket) const noexcept { return Completion{state_, ticket}; }

  void succeed() { end(nullptr); }
  void fail(std::exception_ptr error) { end(std::move(error)); }

 private:
  void end(std::exception_ptr error);

  std::shared_ptr<Completion::State> state_;
  std::uint64_t ticket_ = 0;
};

inline bool Completion::done() const noexcept {
  if (!state_) return true;
  const std::scoped_lock lock{state_->mutex};
  return state_->done;
}

inline std::exception_ptr Completion::error() const noexcept {
  if (!state_) return nullptr;
  const std::scoped_lock lock{state_->mutex};
  return state_->error;
}

inline void Completion::wait() const {
  if (!state_) return;
  std::unique_lock lock{state_->mutex};
  state_->ended.wait(lock, [&] { return state_->done; });
  if (state_->error) std::rethrow_exception(state_->error);
}

inline bool Completion::wait_until(std::chrono::steady_clock::time_point deadline) const {
  if (!state_) return true;
  std::unique_lock lock{state_->mutex};
  return state_->ended.wait_until(lock, deadline, [&] { return state_->done; });
}

inline void Completion::then(std::function<void(std::exception_ptr)> continuation) const {
  Continuations one;
  one.push_back(std::move(continuation));
  then(std::move(one));
}

inline void Completion::then(Continuations&& prepared) const noexcept {
  if (state_) {
    const std::scoped_lock lock{state_->mutex};
    if (!state_->done) return state_->continuations.splice(state_->continuations.end(), prepared);
  }
  for (const auto& continuation : prepared) continuation(error());
}

inline Promise::~Promise() {
  if (!state_ || completion().done()) return;
  try {
    fail(std::make_exception_ptr(
        Error{state_->label + " was dropped before it ended", std::source_location::current()}));
  } catch (...) {  // no memory for the words
    fail(std::current_exception());
  }
}

inline void Promise::end(std::exception_ptr error) {
  Completion::Continuations continuations;
  {
    const std::scoped_lock lock{state_->mutex};
    if (state_->done) return;
    state_->done = true;
    state_->error = error;
    continuations.swap(state_->continuations);
  }
  state_->ended.notify_all();
  for (auto& continuation : continuations) continuation(error);
}

}  // namespace zerospan::inline v0
