/// @file
/// run_ranks: runs a function as the ranks of a group of threads.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/protocol/rank_context.hpp>
#include <zerospan/comm/detail/thread/thread_group.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

using RunRanksOptions = ThreadGroupOptions;

namespace detail {

/// Puts the rank before the words of an exception that is one of the standard library's hierarchies, zerospan's own
/// included. The assignment replaces the words alone: the object stays what it is, whatever was derived from `Base`.
template <class Base>
void name_rank(Base& error, Rank rank) noexcept {
  try {
    error = Base{describe(rank) + ": " + error.what()};
  } catch (...) {  // no memory for the longer text: the shorter one has to do
  }
}

/// How each rank's function ended.
class RankErrors {
 public:
  explicit RankErrors(std::size_t ranks) : errors_(ranks) {}

  /// Keeps the exception being handled as the end of a rank, and makes its peers fail.
  void catch_current(const RankMembership& member) noexcept {
    errors_[static_cast<std::size_t>(member.rank().value)] = std::current_exception();
    int none = -1;
    first_.compare_exchange_strong(none, member.rank().value);
    try {
      throw;
    } catch (const std::exception& error) {
      abort(member, error.what());
    } catch (...) {
      abort(member, "an exception that is not a std::exception");
    }
  }

  /// Rethrows, if any rank has thrown, what the rank at fault threw; failing that, what was thrown first.
  /// All ranks have ended, so that nobody else reads the exception whose words it changes.
  void rethrow_root_cause(const std::optional<Failure>& failure) const {
    if (first_ < 0) return;
    const Rank rank = of(failure->culprit) ? failure->culprit : Rank{first_};
    try {
      std::rethrow_exception(of(rank));
    } catch (const CommunicationError&) {  // it names the ranks itself
      throw;
    } catch (std::runtime_error& error) {
      if (errors_.size() > 1) name_rank(error, rank);
      throw;
    } catch (std::logic_error& error) {
      if (errors_.size() > 1) name_rank(error, rank);
      throw;
    }
  }

 private:
  const std::exception_ptr& of(Rank rank) const noexcept { return errors_[static_cast<std::size_t>(rank.value)]; }

  static void abort(const RankMembership& member, const char* reason) noexcept {
    try {
      member.abort(reason);
    } catch (...) {  // no memory for the reason
      member.abort({});
    }
  }

  std::vector<std::exception_ptr> errors_;
  std::atomic<int> first_ = -1;
};

/// What threads wait for before they do anything: whether all of them could be started.
class StartSignal {
 public:
  void give(bool go) noexcept {
    state_ = go ? State::go : State::stay;
    state_.notify_all();
  }
  /// @return Whether to go.
  bool wait() const noexcept {
    state_.wait(State::unknown);
    return state_ == State::go;
  }

 private:
  enum class State : std::uint8_t { unknown, go, stay };

  std::atomic<State> state_ = State::unknown;
};

/// What the ranks returned; nothing for void.
template <class Result>
struct RankResults {
  explicit RankResults(std::size_t ranks) : values(ranks) {}

  template <class F>
  void keep(Rank rank, F&& call) {
    values[static_cast<std::size_t>(rank.value)].emplace(std::forward<F>(call)());
  }
  std::vector<Result> take() {
    std::vector<Result> taken;
    taken.reserve(values.size());
    for (auto& value : values) taken.push_back(*std::move(value));
    return taken;
  }

  std::vector<std::optional<Result>> values;
};

template <>
struct RankResults<void> {
  explicit RankResults(std::size_t) {}

  template <class F>
  void keep(Rank, F&& call) {
    std::forward<F>(call)();
  }
  void take() {}
};

/// run_ranks, whatever the ranks return.
inline void run_threads(int size, const RunRanksOptions& options,
                        const std::function<void(Rank, ThreadCommunicator)>& body) {
  const auto context = std::make_shared<RankContext>(size);
  const auto group = std::make_shared<ThreadGroup>(context, options.timeout);
  RankErrors errors{static_cast<std::size_t>(size)};
  StartSignal start;
  {
    std::vector<std::jthread> threads;
    threads.reserve(static_cast<std::size_t>(size));
    try {
      for (int rank = 0; rank < size; ++rank) {
        const auto member = std::make_shared<RankMembership>(context, Rank{rank});
        threads.emplace_back([&body, &errors, &start, group, member] {
          if (!start.wait()) return;
          try {
            body(member->rank(), ThreadCommunicator{group, member});
          } catch (...) {
            errors.catch_current(*member);
          }
          member->finish();
        });
      }
    } catch (const std::system_error& error) {
      start.give(false);
      const Rank rank{static_cast<int>(threads.size())};
      throw RankFailedError{describe(rank) + " of " + std::to_string(size) +
                                " failed (its thread could not be started: " + error.code().message() + ")",
                            rank, std::source_location::current()};
    } catch (...) {
      start.give(false);
      throw;
    }
    start.give(true);
  }
  errors.rethrow_root_cause(context->failure);
}

}  // namespace detail

/// Runs `f(communicator)` on `size` threads at once, each with its rank's ThreadCommunicator, and joins them all.
/// Returns the ranks' results in rank order, if there are any.
///
/// An exception that leaves `f` on one rank fails all ranks. What the rank at fault threw is thrown here, as the same
/// object of the same type; the errors that the others get of it are dropped. If it derives from std::runtime_error or
/// std::logic_error, as all errors of zerospan do, its words begin with the rank: "rank 2: no such weight". If the rank
/// at fault threw nothing (it returned early, or stayed away), the error of the first that noticed is thrown, which
/// names both ranks.
///
/// @throws What the rank at fault threw. RankFailedError if a rank's thread cannot be started: then no rank calls `f`.
///   ConfigurationError for a size below one, or a timeout that is not positive.
/// @param f Called concurrently; takes a ThreadCommunicator by value or rvalue reference. Returns nothing or a value,
///   but no bool: an element of a std::vector<bool> refers to the vector, which is a temporary here.
template <class F>
auto run_ranks(int size, F&& f, const RunRanksOptions& options = {}) {
  static_assert(std::invocable<F&, ThreadCommunicator>,
                "run_ranks gives each rank a communicator of its own: its function takes that by value, as in "
                "[](zerospan::ThreadCommunicator ranks) { ... }, not by reference");
  using Result = std::invoke_result_t<F&, ThreadCommunicator>;
  static_assert(!std::is_reference_v<Result>, "ranks return values: what they refer to ends with their thread");
  static_assert(!std::is_same_v<std::remove_cv_t<Result>, bool>,
                "elements of a std::vector<bool> are no values, and end with the vector: a rank that has a bool to "
                "tell returns an int or an enumeration, as in [](zerospan::ThreadCommunicator ranks) -> int { ... }");

  detail::RankResults<Result> results{static_cast<std::size_t>(size > 0 ? size : 0)};
  detail::run_threads(size, options, [&](Rank rank, ThreadCommunicator communicator) {
    results.keep(rank, [&] { return std::invoke(f, std::move(communicator)); });
  });
  return results.take();
}

}  // namespace zerospan::inline v0
