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

/// Calls `continuation(error)` when the last of `parts` has ended, with the error that came first (nullptr if all ended
/// well): on the thread that ends it, or at once if all have ended. The continuation must not throw.
template <class F>
void when_all(const std::vector<Completion>& parts, F continuation) {
  struct Join {
    explicit Join(std::size_t count, F f) : pending{count}, end{std::move(f)} {}
    std::atomic<std::size_t> pending;
    std::atomic<bool> has_failed = false;
    std::exception_ptr error;  // written by the first that fails, read by the last that ends
    F end;
  };
  if (parts.empty()) return continuation(std::exception_ptr{});
  const auto join = std::make_shared<Join>(parts.size(), std::move(continuation));
  for (const Completion& part : parts) {
    part.then([join](std::exception_ptr error) {
      if (error && !join->has_failed.exchange(true)) join->error = std::move(error);
      if (--join->pending == 0) join->end(join->error);
    });
  }
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
