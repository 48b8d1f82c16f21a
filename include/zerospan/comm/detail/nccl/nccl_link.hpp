/// @file
/// NcclLink: one communicator of NCCL, safe to watch from a second thread: its handle, and the calls on it that have
/// not ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/detail/protocol/first_failure.hpp>
#include <zerospan/comm/nccl_error.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Waits a little, and longer when it has been waiting for long.
class Pause {
 public:
  void operator()() {
    constexpr int yields = 64;
    if (count_ < yields) {
      ++count_;
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds{50});
    }
  }

 private:
  int count_ = 0;
};

/// The calls of one communicator that have not ended. Not synchronized. They end in the order in which they began, as
/// NCCL has it.
template <NcclLayer Api>
class NcclPending {
 public:
  using Clock = std::chrono::steady_clock;
  using Event = typename Api::Runtime::event_type;

  struct Call {
    std::string text;
    std::optional<std::uint64_t> number = {};     ///< Of a collective.
    std::optional<Event> begun = {};              ///< Its turn on the stream has come.
    std::optional<Event> ended = {};              ///< Once it is wholly enqueued.
    std::optional<Clock::time_point> since = {};  ///< When its turn came.
  };

  explicit NcclPending(Api api) : api_{std::move(api)} {}

  /// A collective begins, behind what is on the stream.
  void begin(std::string text, std::uint64_t number, StreamRef stream) {
    calls_.push_back({.text = std::move(text), .number = number, .begun = take()});
    api_.runtime().record(*calls_.back().begun, stream);
  }

  /// Something else begins now.
  void begin(std::string text) { calls_.push_back({.text = std::move(text), .since = Clock::now()}); }

  /// What was begun last is wholly enqueued.
  void end(StreamRef stream) {
    calls_.back().ended = take();
    api_.runtime().record(*calls_.back().ended, stream);
  }

  /// What was begun last, and is on no stream, has ended.
  void end() { calls_.pop_back(); }

  /// Forgets what has ended. Returns whether nothing is left.
  bool retire() {
    while (!calls_.empty() && calls_.front().ended && api_.runtime().is_done(*calls_.front().ended)) {
      give(calls_.front());
      calls_.pop_front();
    }
    return calls_.empty();
  }

  /// The first that has not ended; nullptr if there is none.
  const Call* first() {
    if (retire()) return nullptr;
    Call& call = calls_.front();
    if (!call.since && api_.runtime().is_done(*call.begun)) call.since = Clock::now();
    return &call;
  }

  /// What was begun last, in words.
  std::string last() const { return calls_.empty() ? std::string{"no collective"} : calls_.back().text; }

  void clear() noexcept {
    calls_.clear();
    free_.clear();
  }

 private:
  Event take() {
    if (free_.empty()) return api_.runtime().make_event();
    Event event = std::move(free_.back());
    free_.pop_back();
    return event;
  }

  void give(Call& call) {
    if (call.begun) free_.push_back(*std::move(call.begun));
    if (call.ended) free_.push_back(*std::move(call.ended));
  }

  Api api_;
  std::deque<Call> calls_;
  std::vector<Event> free_;
};

/// The culprit of a failure if it is not known.
inline constexpr Rank unknown_rank{-1};

/// The handle, its mutex and the calls that have not ended. Every call of NCCL on the handle is made under the mutex,
/// and returns soon. To wait, the mutex is let go, so that `abort` can come in between.
template <NcclLayer Api>
class NcclLink {
 public:
  using Communicator = typename Api::Communicator;

  /// @param rank This one's in the context, which errors name.
  /// @param members The ranks in the context of those that the communicator connects.
  NcclLink(Api api, Rank rank, std::vector<Rank> members, std::uint64_t id, std::shared_ptr<FirstFailure> failure)
      : api_{std::move(api)},
        rank_{rank},
        members_{std::move(members)},
        failure_{std::move(failure)},
        sequence_{id},
        pending_{api_} {}
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;
  ~NcclLink() { end(); }

  std::uint64_t id() const noexcept { return sequence_.record().communicator; }
  const std::vector<Rank>& members() const noexcept { return members_; }

  SequenceRecord record() const {
    const std::scoped_lock lock{mutex_};
    return sequence_.record();
  }

  /// Whether it has ended, so that nothing happens to it any more.
  bool has_ended() const {
    const std::scoped_lock lock{mutex_};
    return is_aborted_;
  }
  void all_have_closed() {
    const std::scoped_lock lock{mutex_};
    sequence_.all_have_closed();
  }

  /// Runs `work()`, which enqueues a collective on the stream. What it throws is this rank's failure.
  /// @throws The kept failure; what `work` throws.
  template <class Work>
  void run(const CollectiveCall& call, StreamRef stream, Work work) {
    failure_->check();
    try {
      begin(call, stream);
      work();
      end(stream);
    } catch (...) {
      failed();
    }
  }

  /// One group of NCCL's calls, `calls(handle)`; it is enqueued when this returns.
  template <class Calls>
  void launch(const char* operation, Calls calls) {
    std::unique_lock lock{mutex_};
    require_usable();
    NcclResult result = api_.begin_group();
    if (result == NcclResult::success) {
      result = calls(handle_);
      const NcclResult ended = api_.end_group();
      if (is_good(result)) result = ended;
    }
    settle(lock, operation, result);
  }

  /// A step that is no collective of the host's: `start(handle)` starts it; it has ended when this returns.
  /// @param watched The communicator whose state tells, where that is not this one.
  template <class Start>
  void make(const char* operation, Start start, const Communicator* watched = nullptr) {
    failure_->check();
    try {
      std::unique_lock lock{mutex_};
      pending_.begin(operation);
      require_usable();
      settle(lock, operation, start(handle_), watched);
      pending_.end();
    } catch (...) {
      failed();
    }
  }

  /// Keeps a child's handle, which NCCL may yet write to, until this communicator ends, and ends the child with it.
  void keep(std::unique_ptr<Communicator> child) noexcept {
    const std::scoped_lock lock{mutex_};
    child_ = std::move(child);
  }

  /// Counts a collective that nothing is enqueued for.
  void count(const CollectiveCall& call) {
    failure_->check();
    const std::scoped_lock lock{mutex_};
    sequence_.add(call);
  }

  /// Waits for an event that follows a launch.
  void await(typename Api::Runtime::event_type& event) {
    for (Pause pause;; pause()) {
      const bool done = api_.runtime().is_done(event);
      failure_->check();  // an event may be done only because the communicator was aborted
      if (done) return;
    }
  }

  /// Waits for everything that was launched.
  void wait_idle() {
    for (Pause pause;; pause()) {
      const std::scoped_lock lock{mutex_};
      failure_->check();
      if (pending_.retire()) return;
    }
  }

  /// @throws NcclError, or RankFailedError where NCCL says so of another rank.
  [[noreturn]] void throw_error(const std::string& operation, NcclResult result,
                                std::source_location where = std::source_location::current()) {
    const std::string text = operation + " on " + describe(rank_) + ": " + api_.describe(result, handle_) + " (" +
                             std::to_string(static_cast<int>(result)) + ")";
    if (result == NcclResult::remote_error) throw RankFailedError{"another rank failed: " + text, unknown_rank, where};
    throw NcclError{text, static_cast<int>(result), where};
  }

  /// Keeps the exception being handled as this rank's failure, and rethrows the first failure.
  [[noreturn]] void failed() {
    keep_current(*failure_, rank_);
    failure_->check();
    throw;
  }

  /// What the watching thread sees.
  struct LinkState {
    SequenceRecord record;
    std::string waiting_for;                ///< The first call that has not ended, in words.
    std::optional<std::uint64_t> waits_in;  ///< Its number, if it is a collective.
    bool overdue = false;
  };

  /// @throws NcclError, RankFailedError, and what the layer throws, for an error that was found.
  LinkState look(std::chrono::milliseconds timeout);

  /// From any thread. Blocks for no longer than NCCL does.
  void abort() noexcept {
    const std::scoped_lock lock{mutex_};
    is_aborted_ = true;
    if (handle_ != Communicator{}) api_.abort(std::exchange(handle_, Communicator{}));
  }

  /// Waits for what was launched, and ends the communicator.
  /// @param before Called before the end, with the handle, if all is well.
  template <class Before>
  void close(Before before) noexcept {
    try {
      wait_idle();
      if (exists()) {
        {
          const std::scoped_lock lock{mutex_};
          before(handle_);
          sequence_.close();
        }
        make("ncclCommFinalize", [this](Communicator& handle) { return api_.finalize(handle); });
        const std::scoped_lock lock{mutex_};
        if (!is_aborted_) api_.destroy(std::exchange(handle_, Communicator{}));
      }
    } catch (...) {
      abort();
    }
    end();
  }

 private:
  bool exists() const {
    const std::scoped_lock lock{mutex_};
    return handle_ != Communicator{};
  }

  void begin(const CollectiveCall& call, StreamRef stream) {
    const std::scoped_lock lock{mutex_};
    require_usable();
    const std::uint64_t number = sequence_.record().calls;
    pending_.begin(sequence_.add(call), number, stream);
  }

  void end(StreamRef stream) {
    const std::scoped_lock lock{mutex_};
    require_usable();
    pending_.end(stream);
  }

  /// The caller holds the mutex, here and below.
  void require_usable() const {
    if (is_aborted_) failure_->check();
  }

  /// Waits until what has begun with `result` is under way.
  void settle(std::unique_lock<std::mutex>& lock, const char* operation, NcclResult result,
              const Communicator* watched = nullptr) {
    Pause pause;
    while (result == NcclResult::in_progress) {
      lock.unlock();
      pause();
      failure_->check();
      lock.lock();
      require_usable();
      NcclResult state{};
      const NcclResult asked = api_.state_of(watched ? *watched : handle_, state);
      result = asked == NcclResult::success ? state : asked;
    }
    if (result != NcclResult::success) throw_error(operation + (" in " + pending_.last()), result);
  }

  void end() noexcept {
    const std::scoped_lock lock{mutex_};
    is_aborted_ = true;
    if (handle_ != Communicator{}) api_.abort(std::exchange(handle_, Communicator{}));
    if (child_ && *child_ != Communicator{}) api_.abort(std::exchange(*child_, Communicator{}));
    pending_.clear();
  }

  Api api_;
  Rank rank_;
  std::vector<Rank> members_;
  std::shared_ptr<FirstFailure> failure_;

  mutable std::mutex mutex_;  // guards all below
  std::unique_ptr<Communicator> child_;
  Communicator handle_{};
  bool is_aborted_ = false;
  CallSequence sequence_;
  NcclPending<Api> pending_;
};

template <NcclLayer Api>
auto NcclLink<Api>::look(std::chrono::milliseconds timeout) -> LinkState {
  const std::scoped_lock lock{mutex_};
  LinkState seen{.record = sequence_.record(), .waiting_for = {}, .waits_in = {}};
  if (is_aborted_) return seen;
  if (const auto* const first = pending_.first()) {
    seen.waiting_for = first->text;
    seen.waits_in = first->number;
    seen.overdue = first->since && NcclPending<Api>::Clock::now() - *first->since > timeout;
  }
  if (handle_ == Communicator{}) return seen;
  NcclResult state{};
  const NcclResult asked = api_.state_of(handle_, state);
  const NcclResult found = asked == NcclResult::success ? state : asked;
  if (!is_good(found)) {
    throw_error(seen.waiting_for.empty() ? std::string{"no collective"} : seen.waiting_for, found);
  }
  return seen;
}

}  // namespace zerospan::inline v0::detail
