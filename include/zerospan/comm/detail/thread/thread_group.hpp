/// @file
/// ThreadGroup: where the threads of one ThreadCommunicator meet.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/detail/protocol/rank_context.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The rendezvous of P threads. A collective begins when all have arrived with the same call; from then on it cannot
/// fail, each rank may read its peers' operands, and `meet` separates the phases, the last of which ends the use of
/// anybody's operands. A rank that gets an error from `begin` has not been read from, and never will be.
class ThreadGroup {
 public:
  /// All ranks of the context.
  ThreadGroup(const std::shared_ptr<RankContext>& context, std::chrono::milliseconds timeout)
      : ThreadGroup{context, timeout, all_ranks(context->finished.size())} {}

  /// @param members Of the context, in the order of their ranks in the group.
  ThreadGroup(std::shared_ptr<RankContext> context, std::chrono::milliseconds timeout, std::vector<Rank> members)
      : context_{std::move(context)},
        timeout_{timeout},
        members_{std::move(members)},
        calls_(members_.size()),
        fingerprints_(members_.size()),
        entered_(members_.size(), 0),
        posted_{Posts(members_.size()), Posts(members_.size())},
        children_(members_.size()) {
    if (timeout <= timeout.zero()) throw_configuration_error("the timeout of a group of ranks must be positive");
  }

  int size() const noexcept { return static_cast<int>(calls_.size()); }

  /// The rank in this group of a member.
  Rank rank_of(Rank in_context) const {
    return Rank{static_cast<int>(std::ranges::find(members_, in_context) - members_.begin())};
  }

  /// Publishes the call and waits for the others'. Few integers to be summed are copied: see `posted_integers`.
  /// @returns The number of the collective.
  /// @throws RankFailedError, RankTimeoutError, DivergenceError
  std::uint64_t begin(Rank me, const CollectiveCall& call);

  /// As many integers of a sum as are posted with the call: all that a training step sums, and more.
  static constexpr std::size_t most_posted = 128;

  /// What a rank has posted in the collective of that number, from its `begin` to the caller's next one: a rank that is
  /// ahead posts to the other half, and cannot be further ahead. So nobody needs to `meet` for it.
  /// @param count At most `most_posted`.
  std::span<const std::int64_t> posted_integers(Rank rank, std::uint64_t number, std::size_t count) const noexcept {
    return std::span{posted_[number % 2][index(rank)]}.first(count);
  }

  /// The call of a rank, between `begin` and the last `meet` of a collective.
  const CollectiveCall& call(Rank rank) const noexcept { return calls_[index(rank)]; }

  /// Changes a fence of the caller's own call, which nobody reads now.
  void set_fence(Rank me, std::size_t turn, const void* fence) noexcept { calls_[index(me)].fences[turn] = fence; }

  /// Waits until every rank has called it. Only within a collective that has begun, and so only for a finite time.
  /// @returns Whether any rank `is_in_trouble`.
  bool meet(bool is_in_trouble = false);

  /// A collective: an independent group of the same context.
  std::shared_ptr<ThreadGroup> duplicate(Rank me) {
    return make_child(me, {.kind = CollectiveKind::duplicate, .place = {0, me.value}});
  }

  /// A collective: the group of those that have the caller's color.
  /// @throws ConfigurationError, on all ranks, if two have the same color and key.
  std::shared_ptr<ThreadGroup> split(Rank me, SplitPlace place) {
    return make_child(me, {.kind = CollectiveKind::split, .place = place});
  }

 private:
  static std::vector<Rank> all_ranks(std::size_t count) {
    std::vector<Rank> ranks;
    for (std::size_t i = 0; i < count; ++i) ranks.push_back(Rank{static_cast<int>(i)});
    return ranks;
  }

  using Posts = std::vector<std::array<std::int64_t, most_posted>>;  // one a rank

  static std::size_t index(Rank rank) noexcept { return static_cast<std::size_t>(rank.value); }

  /// Ranks that meet at almost the same time do so without sleeping.
  static bool spin_until_changed(const std::atomic<std::uint64_t>& counter, std::uint64_t old) noexcept {
    constexpr int yields = 64;
    for (int i = 0; i < yields; ++i) {
      if (counter.load(std::memory_order_acquire) != old) return true;
      std::this_thread::yield();
    }
    return false;
  }

  /// Whether a rank has not called the collective of that number. The caller holds the context's mutex, here and below.
  bool is_missing(std::size_t rank, std::uint64_t number) const noexcept { return entered_[rank] == number; }
  std::shared_ptr<ThreadGroup> make_child(Rank me, const CollectiveCall& call);

  bool waits_for_finished(std::uint64_t number) const;
  Failure find_failure(const CollectiveCall& call, std::uint64_t number) const;
  bool all_agree() const noexcept;
  Failure find_divergence(std::uint64_t number) const;

  std::shared_ptr<RankContext> context_;
  std::chrono::milliseconds timeout_;
  std::vector<Rank> members_;  // their ranks in the context, which errors name
  std::vector<CollectiveCall> calls_;
  std::vector<std::uint64_t> fingerprints_;
  std::vector<std::uint64_t> entered_;    // collectives that each rank has called
  std::array<Posts, 2> posted_;           // of collectives of even and of odd numbers
  std::atomic<std::uint64_t> begun_ = 0;  // collectives that all have called
  std::atomic<std::uint64_t> met_ = 0;
  std::size_t arrived_ = 0;
  std::size_t meeting_ = 0;
  bool has_trouble_ = false;                            // any rank of this meeting
  std::array<bool, 2> had_trouble_{};                   // of the last two meetings: nobody is further behind
  std::vector<std::shared_ptr<ThreadGroup>> children_;  // while one is made: with the first rank of each
};

inline std::uint64_t ThreadGroup::begin(Rank me, const CollectiveCall& call) {
  context_->require_home(members_[index(me)]);
  const std::uint64_t print = fingerprint(call);
  std::unique_lock lock{context_->mutex};
  const std::uint64_t number = begun_.load(std::memory_order_relaxed);
  if (context_->failure) {
    throw_failure(*context_->failure,
                  std::string{" before "} + describe(members_[index(me)]) + " called " + describe(call, number));
  }
  calls_[index(me)] = call;
  fingerprints_[index(me)] = print;
  if (call.integers.size() <= most_posted) {
    std::ranges::copy(call.integers, posted_[number % 2][index(me)].begin());
  }
  ++entered_[index(me)];
  if (++arrived_ == calls_.size()) {
    if (!all_agree()) throw_failure(context_->fail(find_divergence(number)), {});
    arrived_ = 0;
    begun_.store(number + 1, std::memory_order_release);
    context_->changed.notify_all();
    return number;
  }

  const auto deadline =
      std::chrono::steady_clock::now() + std::min<std::chrono::milliseconds>(timeout_, std::chrono::years{1});
  lock.unlock();
  if (spin_until_changed(begun_, number)) return number;
  lock.lock();
  const auto has_begun = [&] { return begun_.load(std::memory_order_relaxed) != number; };
  context_->changed.wait_until(lock, deadline,
                               [&] { return has_begun() || context_->failure || waits_for_finished(number); });
  if (has_begun()) return number;
  if (!context_->failure) context_->fail(find_failure(call, number));
  throw_failure(*context_->failure, standing(*context_->failure, members_[index(me)], describe(call, number)));
}

inline bool ThreadGroup::meet(bool is_in_trouble) {
  std::unique_lock lock{context_->mutex};
  const std::uint64_t old = met_.load(std::memory_order_relaxed);
  has_trouble_ = has_trouble_ || is_in_trouble;
  if (++meeting_ == calls_.size()) {
    meeting_ = 0;
    had_trouble_[old % 2] = std::exchange(has_trouble_, false);
    met_.store(old + 1, std::memory_order_release);
    context_->changed.notify_all();
    return had_trouble_[old % 2];
  }
  lock.unlock();
  if (spin_until_changed(met_, old)) return had_trouble_[old % 2];
  lock.lock();
  context_->changed.wait(lock, [&] { return met_.load(std::memory_order_relaxed) != old; });
  return had_trouble_[old % 2];
}

inline std::shared_ptr<ThreadGroup> ThreadGroup::make_child(Rank me, const CollectiveCall& call) {
  std::shared_ptr<ThreadGroup> child;
  std::exception_ptr error;
  begin(me, call);
  std::size_t first = 0;
  try {
    std::vector<SplitPlace> places;
    for (const CollectiveCall& each : calls_) places.push_back(each.place);
    const std::vector<std::size_t> ranks = ranks_beside(places, index(me));
    first = ranks.front();
    if (first == index(me)) {
      std::vector<Rank> members;
      for (const std::size_t rank : ranks) members.push_back(members_[rank]);
      children_[first] = std::make_shared<ThreadGroup>(context_, timeout_, std::move(members));
    }
  } catch (...) {
    error = std::current_exception();
  }
  meet();
  child = children_[first];
  meet();
  children_[index(me)].reset();
  if (error) std::rethrow_exception(error);
  if (!child) throw std::bad_alloc{};
  return child;
}

inline bool ThreadGroup::waits_for_finished(std::uint64_t number) const {
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (is_missing(i, number) && context_->finished[index(members_[i])]) return true;
  }
  return false;
}

/// Why the collective cannot begin: a missing rank has left, or else the deadline has passed.
inline Failure ThreadGroup::find_failure(const CollectiveCall& call, std::uint64_t number) const {
  std::vector<Rank> missing;
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (!is_missing(i, number)) continue;
    if (context_->finished[index(members_[i])]) return has_returned(members_[i]);
    missing.push_back(members_[i]);
  }
  return not_arrived(missing, describe(call, number), timeout_);
}

inline bool ThreadGroup::all_agree() const noexcept {
  return std::ranges::all_of(fingerprints_, [&](std::uint64_t print) { return print == fingerprints_.front(); });
}

inline Failure ThreadGroup::find_divergence(std::uint64_t number) const {
  std::vector<std::string> descriptions;
  for (const CollectiveCall& call : calls_) descriptions.push_back(describe(call, number));
  const auto culprit = find_culprit(
      calls_.size(), [](std::size_t) { return true; },
      [&](std::size_t a, std::size_t b) { return fingerprints_[a] == fingerprints_[b]; });
  return divergence(members_, descriptions, culprit.value());
}

}  // namespace zerospan::inline v0::detail
