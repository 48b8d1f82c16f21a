/// @file
/// run_ranks: runs a function as the ranks of a group of threads.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/comm/detail/thread/thread_group.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

using RunRanksOptions = ThreadGroupOptions;

namespace detail {

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
  /// All ranks have ended.
  void rethrow_root_cause(const std::optional<Failure>& failure) const {
    if (first_ < 0) return;
    const auto& culprits = errors_[static_cast<std::size_t>(failure->culprit.value)];
    std::rethrow_exception(culprits ? culprits : errors_[static_cast<std::size_t>(first_)]);
  }

 private:
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

}  // namespace detail

/// Runs `f(communicator)` on `size` threads at once, each with its rank's ThreadCommunicator, and joins them all.
/// Returns the ranks' results in rank order, if there are any.
///
/// @throws What the rank at fault threw: an exception that leaves `f` on one rank fails all ranks, whose own errors
///   are dropped. If that rank threw nothing (it returned early, or stayed away), the error of the first that
///   noticed. ConfigurationError for a size below one, or a timeout that is not positive.
/// @param f Called concurrently; takes a ThreadCommunicator by value or rvalue reference.
template <class F>
requires std::invocable<F&, ThreadCommunicator>
auto run_ranks(int size, F&& f, const RunRanksOptions& options = {}) {
  using Result = std::invoke_result_t<F&, ThreadCommunicator>;
  static_assert(!std::is_reference_v<Result>, "ranks return values: what they refer to ends with their thread");

  const auto family = std::make_shared<detail::RankFamily>(size);
  const auto group = std::make_shared<detail::ThreadGroup>(family, options.timeout);
  detail::RankErrors errors{static_cast<std::size_t>(size)};
  detail::RankResults<Result> results{static_cast<std::size_t>(size)};
  {
    std::vector<std::jthread> threads;
    threads.reserve(static_cast<std::size_t>(size));
    // Declared last: if a thread cannot be started, the ranks without one leave before the others are joined.
    std::vector<std::shared_ptr<detail::RankMembership>> members;
    for (int rank = 0; rank < size; ++rank) {
      members.push_back(std::make_shared<detail::RankMembership>(family, Rank{rank}));
    }
    for (const auto& each : members) {
      threads.emplace_back([&f, &errors, &results, group, member = each] {
        try {
          results.keep(member->rank(), [&] { return std::invoke(f, ThreadCommunicator{group, member}); });
        } catch (...) {
          errors.catch_current(*member);
        }
        member->finish();
      });
    }
  }
  errors.rethrow_root_cause(family->failure);
  return results.take();
}

}  // namespace zerospan::inline v0
