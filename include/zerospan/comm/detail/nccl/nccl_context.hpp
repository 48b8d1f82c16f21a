/// @file
/// NcclContext: what the communicators of one rank share, and the thread that watches over them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/detail/protocol/first_failure.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A communicator and all its duplicates on one rank. Its thread looks for errors that NCCL found, for collectives that
/// take too long and, where the exchange has a board, for ranks that failed, left or diverged. The first failure is
/// told to the listeners; then everything is aborted.
template <NcclLayer Api>
class NcclContext {
 public:
  using Link = NcclLink<Api>;

  NcclContext(Api api, AnyExchange exchange, const NcclOptions& options)
      : api_{std::move(api)},
        exchange_{std::move(exchange)},
        rank_{exchange_.rank()},
        options_{options},
        watcher_{start_watcher()} {}
  NcclContext(const NcclContext&) = delete;
  NcclContext& operator=(const NcclContext&) = delete;
  ~NcclContext() {
    failure_->stop();
    watcher_.join();
  }

  const HomeProcess& home() const noexcept { return home_; }
  Rank rank() const noexcept { return rank_; }
  int device() { return api_.device(); }
  const NcclOptions& options() const noexcept { return options_; }
  const std::shared_ptr<FirstFailure>& failure() const noexcept { return failure_; }

  /// Watches over a communicator until it has ended on all its ranks.
  void add(std::shared_ptr<Link> link) {
    const std::scoped_lock lock{mutex_};
    links_.push_back(std::move(link));
  }

 private:
  /// What every other rank has posted; nothing for this one.
  using States = std::vector<RankState>;

  /// @throws RankFailedError if it cannot be started; the other ranks are told.
  std::thread start_watcher() {
    try {
      return std::thread{[this] { watch(); }};
    } catch (const std::system_error& error) {
      const std::string reason = describe(rank_) + " failed (the thread that watches over its communicators could " +
                                 "not be started: " + error.code().message() + ")";
      exchange_.abort(reason);
      throw RankFailedError{reason, rank_, std::source_location::current()};
    }
  }

  void watch() noexcept {
    bool aborted = false;
    const auto time = std::min<std::chrono::milliseconds>(options_.poll, std::chrono::hours{1});
    for (bool goes_on = true; goes_on;) {
      goes_on = failure_->wait(time, aborted);  // if not, the last round still tells of a failure that was found
      attempt([&] { api_.runtime().attach(); });
      if (goes_on && !failure_->exists()) attempt([&] { look(); });
      failure_->checked();
      attempt([&] { show(); });
      if (!failure_->exists()) continue;
      failure_->tell();
      for (const auto& link : links()) link->abort();
      if (!aborted) exchange_.abort(failure_->failure().text);
      aborted = true;
    }
  }

  /// Runs a step of the thread; what it throws is this rank's failure.
  template <class Step>
  void attempt(Step step) noexcept {
    try {
      step();
    } catch (...) {
      keep_current(*failure_, rank_);
    }
  }

  std::vector<std::shared_ptr<Link>> links() {
    const std::scoped_lock lock{mutex_};
    return links_;
  }

  /// Posts this rank's state if it has changed.
  void show() {
    if (!exchange_.has_board()) return;
    RankState state;
    if (failure_->exists()) state.failure = failure_->failure();
    for (const auto& link : links()) state.sequences.push_back(link->record());
    std::vector<std::byte> bytes = to_bytes(state);
    if (bytes == shown_) return;
    exchange_.post(bytes);
    shown_ = std::move(bytes);
  }

  void look() {
    States states(static_cast<std::size_t>(exchange_.size()));
    for (std::size_t rank = 0; exchange_.has_board() && rank < states.size(); ++rank) {
      if (static_cast<int>(rank) == rank_.value) continue;
      states[rank] = to_rank_state(exchange_.peek(Rank{static_cast<int>(rank)}));
      if (states[rank].failure) return failure_->keep(*states[rank].failure);
    }
    for (const auto& link : links()) examine(*link, states);
    forget_ended(states);
  }

  /// Forgets the communicators that have ended here, once no other rank needs to be told of them.
  void forget_ended(const States& states) {
    const auto is_over = [&](const std::shared_ptr<Link>& link) {
      if (!link->has_ended()) return false;
      if (!exchange_.has_board()) return true;
      std::vector<const SequenceRecord*> others;
      for (const Rank member : link->members()) {
        if (member != rank_) others.push_back(states[static_cast<std::size_t>(member.value)].find(link->id()));
      }
      const ClosedSequence next = next_of_closed(link->record(), others);
      if (next == ClosedSequence::all_have_closed) link->all_have_closed();
      return next == ClosedSequence::forget;
    };
    const std::scoped_lock lock{mutex_};
    std::erase_if(links_, is_over);
  }

  void examine(Link& link, const States& states) {
    const auto seen = link.look(options_.timeout);
    const std::vector<Rank>& members = link.members();
    std::vector<const SequenceRecord*> records;
    for (const Rank member : members) {
      const RankState& state = states[static_cast<std::size_t>(member.value)];
      records.push_back(member == rank_ ? &seen.record : state.find(link.id()));
    }
    const auto divergence = find_divergence(records, members, may_agree);
    const bool is_certain = divergence && (seen.overdue || all_have_told(records, members, divergence->culprit));
    if (is_certain) failure_->keep(*divergence);
    if (seen.waits_in) find_finished(seen, records, members);
    if (seen.overdue) failure_->keep(overdue(seen, records, members));
  }

  /// Keeps a failure if a rank that this one waits for has ended.
  void find_finished(const typename Link::LinkState& seen, const std::vector<const SequenceRecord*>& records,
                     const std::vector<Rank>& members) {
    for (std::size_t i = 0; i < records.size(); ++i) {
      const SequenceRecord* const record = records[i];
      if (record == nullptr || record->closed == 0 || record->calls > *seen.waits_in) continue;
      const Rank finished = members[i];
      failure_->keep({Failure::Kind::rank_failed, finished,
                      describe(finished) + " returned while " + describe(rank_) + " waits in " + seen.waiting_for});
    }
  }

  Failure overdue(const typename Link::LinkState& seen, const std::vector<const SequenceRecord*>& records,
                  const std::vector<Rank>& members) const {
    Rank culprit = unknown_rank;
    std::string missing;
    for (std::size_t i = 0; seen.waits_in && i < records.size(); ++i) {
      if (records[i] == nullptr || records[i]->calls > *seen.waits_in) continue;
      if (culprit == unknown_rank) culprit = members[i];
      missing += (missing.empty() ? "" : ", ") + std::to_string(members[i].value);
    }
    const std::string time = " within " + std::to_string(options_.timeout.count()) + " ms";
    std::string text = missing.empty() ? seen.waiting_for + " did not end on " + describe(rank_) + time
                                       : "rank " + missing + " did not arrive at " + seen.waiting_for + time;
    if (exchange_.has_board()) text += "; " + list_calls(members, last_calls(records));
    return {Failure::Kind::timeout, culprit, text};
  }

  HomeProcess home_;
  Api api_;
  AnyExchange exchange_;
  Rank rank_;
  NcclOptions options_;
  std::shared_ptr<FirstFailure> failure_ = std::make_shared<FirstFailure>();
  std::mutex mutex_;
  std::vector<std::shared_ptr<Link>> links_;  // guarded by the mutex
  std::vector<std::byte> shown_;              // the thread's own
  std::thread watcher_;
};

}  // namespace zerospan::inline v0::detail
