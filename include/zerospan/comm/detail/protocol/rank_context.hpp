/// @file
/// RankContext: the ranks of a communicator and of all that is made of it, where they share memory.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The ranks of a communicator and of all that is made of it. One failure ends them all; the first one is kept.
/// `failure` and `finished` are guarded by the mutex; `changed` is notified whenever a waiting rank may have to look
/// again.
struct RankContext {
  explicit RankContext(int size) : finished(static_cast<std::size_t>(std::max(size, 0)), false) {
    if (size < 1) throw_configuration_error("a communicator has at least one rank, not " + std::to_string(size));
  }

  /// @throws RankFailedError in a forked process: the other ranks are threads that it does not have.
  void require_home(Rank rank) const {
    if (finished.size() > 1) home.require(rank);
  }

  HomeProcess home;
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Failure> failure;
  std::vector<bool> finished;

  /// Keeps the failure, unless there is one. The caller holds the mutex.
  const Failure& fail(Failure first) {
    if (!failure) failure = std::move(first);
    changed.notify_all();
    return *failure;
  }

  /// Declares a rank failed.
  void abort(Rank rank, const std::string& reason) noexcept {
    if (is_copy()) return;
    const std::scoped_lock lock{mutex};
    try {
      fail({Failure::Kind::rank_failed, rank, describe(rank) + " failed (" + reason + ")"});
    } catch (...) {  // no memory for the reason
      fail({Failure::Kind::rank_failed, rank, {}});
    }
  }

  /// Declares that a rank calls nothing more.
  void finish(Rank rank) noexcept {
    if (is_copy()) return;
    const std::scoped_lock lock{mutex};
    finished[static_cast<std::size_t>(rank.value)] = true;
    changed.notify_all();
  }

 private:
  /// Whether this is the copy of a context of several ranks in a forked process.
  bool is_copy() const noexcept { return finished.size() > 1 && home.was_left(); }
};

/// A rank's membership in its context, shared by all communicators that the rank has there. With the last of them it
/// ends, and the rank has returned.
class RankMembership {
 public:
  RankMembership(std::shared_ptr<RankContext> context, Rank rank) noexcept
      : context_{std::move(context)}, rank_{rank} {}
  RankMembership(const RankMembership&) = delete;
  RankMembership& operator=(const RankMembership&) = delete;
  ~RankMembership() { finish(); }

  Rank rank() const noexcept { return rank_; }
  void abort(const std::string& reason) const noexcept { context_->abort(rank_, reason); }
  void finish() const noexcept { context_->finish(rank_); }

 private:
  std::shared_ptr<RankContext> context_;
  Rank rank_;
};

}  // namespace zerospan::inline v0::detail
