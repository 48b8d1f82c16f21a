/// @file
/// LaneMonitor: what the lanes of one engine have in common: the first error, deadlines, totals.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::detail {

/// @note Thread-safe. Transfers under way share its ownership: it may outlive the lanes.
class LaneMonitor {
 public:
  using Clock = Timeline::Clock;

  explicit LaneMonitor(LaneOptions options) : options_{bounded(std::move(options))} {}

  /// Tells `LaneOptions::on_failure` the first error, then keeps it; later ones follow from it and are dropped.
  /// `error()` returns it only when the peers have been told: nobody acts on it before.
  void fail(const std::exception_ptr& error) {
    {
      const std::scoped_lock lock{mutex_};
      if (is_failing_ || abandoned_) return;
      is_failing_ = true;
    }
    if (options_.on_failure) tell(error);
    const std::scoped_lock lock{mutex_};
    error_ = error;
  }

  std::exception_ptr error() const {
    const std::scoped_lock lock{mutex_};
    return error_;
  }

  /// Blocks until `completion` is done, or a transfer is overdue; not at all once there was an error. Only transfers
  /// have a deadline here: everything else waits for transfers, or for collectives, which have a deadline of their own.
  void await(const Completion& completion) {
    await([&](Clock::time_point deadline) { return completion.wait_until(deadline); });
  }

  /// The same for anything that `wait_until(deadline)` waits for; it returns whether that has come.
  template <class WaitUntil>
  requires std::is_invocable_r_v<bool, WaitUntil&, Clock::time_point>
  void await(WaitUntil wait_until) {
    while (!error() && !wait_until(Clock::now() + options_.timeout)) {
      const std::string overdue = find_overdue();
      if (overdue.empty()) continue;
      fail(std::make_exception_ptr(
          TimeoutError{overdue + " did not end within " + std::to_string(options_.timeout.count()) + " ms",
                       std::source_location::current()}));
    }
  }

  void item_posted() {
    const std::scoped_lock lock{mutex_};
    ++unfinished_;
  }
  void item_finished() {
    const std::scoped_lock lock{mutex_};
    --unfinished_;
    idle_.notify_all();
  }

  /// Ends an item that was posted: accounts for it, and tells `promise` and `fail` how it ended.
  void finish_item(Promise& promise, std::string_view track, const Operation& operation, Clock::time_point begin,
                   Clock::time_point end, const std::exception_ptr& failure) {
    account(track, operation, begin, end);
    if (failure) {
      fail(failure);
      promise.fail(failure);
    } else {
      promise.succeed();
    }
    item_finished();
  }

  /// @return The number under which the transfer is ended; never 0.
  std::uint64_t transfer_begins(std::string label) {
    const std::scoped_lock lock{mutex_};
    transfers_.emplace(++last_transfer_, std::pair{std::move(label), Clock::now()});
    return last_transfer_;
  }
  void transfer_ended(std::uint64_t transfer) {
    const std::scoped_lock lock{mutex_};
    transfers_.erase(transfer);
  }

  void account(std::string_view track, const Operation& operation, Clock::time_point begin, Clock::time_point end) {
    {
      const std::scoped_lock lock{mutex_};
      if (abandoned_) return;
      Clock::time_point& last_end = last_end_[track];
      const Clock::time_point from = std::max(begin, last_end);
      last_end = std::max(last_end, end);
      OperationCounter& counter = counters_[operation.kind];
      ++counter.count;
      counter.bytes += operation.bytes;
      if (end > from) counter.seconds += std::chrono::duration<double>(end - from).count();
    }
    if (options_.timeline) {
      options_.timeline->record(options_.rank, track, to_string(operation.kind), operation.name, operation.bytes, begin,
                                end);
    }
  }

  /// Accounts for a wait of the host's thread. @param operation What it waited for.
  void account_wait(const Operation& operation, Clock::time_point begin, Clock::time_point end) {
    account("host", {OperationKind::wait, operation.name}, begin, end);
    const std::scoped_lock lock{mutex_};
    if (!abandoned_) {
      counters_.waited[static_cast<std::size_t>(operation.kind)] += std::chrono::duration<double>(end - begin).count();
    }
  }

  LaneCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return counters_;
  }

  /// Blocks until every item is finished; gives up once nothing but overdue transfers is left. Those may end later,
  /// when there is nobody to tell any more: they leave no trace. In a child process nothing ends any more, and it does
  /// not wait. @return Whether everything has ended.
  bool drain() noexcept {
    if (!process_.is_this()) return false;
    std::unique_lock lock{mutex_};
    while (unfinished_ > 0 && !abandoned_) {
      const bool only_transfers = unfinished_ == transfers_.size();
      if (only_transfers && Clock::now() - transfers_.rbegin()->second.second >= options_.timeout) {
        abandoned_ = true;
      } else {
        const auto deadline =
            only_transfers ? transfers_.rbegin()->second.second + options_.timeout : Clock::now() + options_.timeout;
        idle_.wait_until(lock, deadline);
      }
    }
    return unfinished_ == 0;
  }

 private:
  void tell(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      options_.on_failure(e.what());
    } catch (...) {
      options_.on_failure("an error that is no std::exception");
    }
  }

  /// Clocks count nanoseconds: "never" must not overflow them.
  static LaneOptions bounded(LaneOptions options) {
    options.timeout = std::min<std::chrono::milliseconds>(options.timeout, std::chrono::years{1});
    return options;
  }

  std::string find_overdue() const {
    const std::scoped_lock lock{mutex_};
    for (const auto& [id, transfer] : transfers_) {
      if (Clock::now() - transfer.second >= options_.timeout) return transfer.first;
    }
    return {};
  }

  OwnProcess process_;
  const LaneOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  bool is_failing_ = false;
  std::exception_ptr error_;
  bool abandoned_ = false;
  std::size_t unfinished_ = 0;
  std::uint64_t last_transfer_ = 0;
  std::map<std::uint64_t, std::pair<std::string, Clock::time_point>> transfers_;
  std::map<std::string_view, Clock::time_point> last_end_;
  LaneCounters counters_;
};

}  // namespace zerospan::inline v0::detail
