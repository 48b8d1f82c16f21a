/// @file
/// Many completions as one.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Many completions, whose end calls `end(error)`: with the memory for that from the start, so that `join` cannot fail.
template <class F>
class PreparedJoin {
 public:
  /// @param most How many completions there may be.
  PreparedJoin(std::size_t most, F end) : state_{std::make_shared<State>(std::move(end))} {
    for (std::size_t i = 0; i < most; ++i) {
      prepared_.emplace_back([state = state_](std::exception_ptr error) {
        if (error && !state->has_failed.exchange(true)) state->error = std::move(error);
        if (--state->pending == 0) state->end(state->error);
      });
    }
  }

  /// Called once. When the last of `parts` has ended, calls `end` with the error that came first (nullptr if all ended
  /// well): on the thread that ends it, or at once if all have ended. `end` must not throw.
  void join(const std::vector<Completion>& parts) noexcept {
    if (parts.empty()) return state_->end(std::exception_ptr{});
    state_->pending = parts.size();
    Continuations continuations = std::move(prepared_);
    for (const Completion& part : parts) {
      Continuations one;
      one.splice(one.end(), continuations, continuations.begin());
      part.then(std::move(one));
    }
  }

 private:
  using Continuations = Completion::Continuations;

  struct State {
    explicit State(F f) : end{std::move(f)} {}
    std::atomic<std::size_t> pending = 0;
    std::atomic<bool> has_failed = false;
    std::exception_ptr error;  // written by the first that fails, read by the last that ends
    F end;
  };

  std::shared_ptr<State> state_;
  Continuations prepared_;
};

/// Calls `continuation(error)` when the last of `parts` has ended, as PreparedJoin does.
template <class F>
void when_all(const std::vector<Completion>& parts, F continuation) {
  PreparedJoin{parts.size(), std::move(continuation)}.join(parts);
}

/// One completion for all `parts`: done when the last has ended, with the error that came first.
inline Completion joined(std::string label, const std::vector<Completion>& parts) {
  if (parts.size() == 1) return parts.front();
  const auto promise = std::make_shared<Promise>(std::move(label));
  when_all(parts, [promise](const std::exception_ptr& error) {
    if (error) return promise->fail(error);
    promise->succeed();
  });
  return promise->completion();
}

/// The completion that `start()` returns; what it throws instead is the error of one.
template <class F>
Completion started(F start) {
  try {
    return start();
  } catch (...) {
    Promise promise{"something that did not start"};
    promise.fail(std::current_exception());
    return promise.completion();
  }
}

}  // namespace zerospan::inline v0::detail
