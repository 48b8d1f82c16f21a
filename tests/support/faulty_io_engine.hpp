/// @file
/// FaultyIoEngine: an IoEngine that fails on request, for the tests of whatever does I/O.
#pragma once

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/io/io_engine.hpp>

#include "scratch.hpp"

namespace zerospan_test {

enum class FaultKind : std::uint8_t {
  error,           ///< Nothing is moved; the errno is reported.
  short_transfer,  ///< Half is moved (a multiple of 512 bytes) and reported; requests of 512 bytes are moved whole.
  ragged,          ///< All is moved, 100 bytes less are reported.
  zero,            ///< Nothing is moved, and no error is reported.
  lost,            ///< Nothing is moved, and the callback is kept uncalled.
  flip,            ///< All is moved, but for one bit that arrives (or is stored) as its contrary.
  torn,            ///< All but the last 4 KiB is moved, and all is reported.
};

struct RequestCounts {
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;

  std::uint64_t all() const noexcept { return reads + writes; }
  std::uint64_t of(zerospan::IoDirection direction) const noexcept {
    return direction == zerospan::IoDirection::read ? reads : writes;
  }
  void add(zerospan::IoDirection direction) noexcept { ++(direction == zerospan::IoDirection::read ? reads : writes); }
};

/// What happens to which requests; they are counted from 0 since the last `inject`, those of each direction apart.
struct Fault {
  FaultKind kind = FaultKind::error;
  std::uint64_t request = 0;                    ///< The first request it happens to.
  std::uint64_t every = 0;                      ///< From then on each so many'th request; 0: only that one.
  int error_number = EIO;                       ///< Of `FaultKind::error`.
  std::uint64_t bit = 0;                        ///< Of `FaultKind::flip`: which of the request, modulo their number.
  std::optional<zerospan::IoDirection> only{};  ///< If set, other requests are neither hit nor counted.

  /// @param counts What came before: requests in all, reads and writes.
  bool hits(zerospan::IoDirection direction, const RequestCounts& counts) const noexcept {
    if (only && *only != direction) return false;
    const std::uint64_t index = only ? counts.of(direction) : counts.all();
    return index == request || (every != 0 && index > request && (index - request) % every == 0);
  }
};

/// Passes requests on to another engine, which outlives it, and injects faults. Completions can be held back until the
/// test releases them. Thread-safe.
template <zerospan::IoEngine E>
class FaultyIoEngine {
 public:
  explicit FaultyIoEngine(E& inner) : inner_{&inner}, state_{std::make_shared<State>()} {}
  FaultyIoEngine(const FaultyIoEngine&) = delete;
  FaultyIoEngine& operator=(const FaultyIoEngine&) = delete;

  /// Releases what is held, waits for what is under way, drops what is lost.
  ~FaultyIoEngine() {
    release();
    wait_idle();
    drop_lost();
  }

  void submit(const zerospan::IoRequest& request, zerospan::IoCallback callback) {
    Plan plan;
    {
      const std::scoped_lock lock{state_->mutex};
      plan = state_->admit(request, callback);
      if (plan.is_lost) return state_->changed.notify_all();
    }
    inner_->submit(plan.request, [state = state_, plan, callback = std::move(callback)](std::int64_t result) mutable {
      state->finish(plan, std::move(callback), result);
    });
  }

  std::size_t queue_depth() const { return inner_->queue_depth(); }
  std::string_view name() const { return "faulty"; }

  /// Replaces the plan and counts requests from 0 again. Of several faults that hit a request, the first counts.
  void inject(std::vector<Fault> faults) {
    const std::scoped_lock lock{state_->mutex};
    state_->faults = std::move(faults);
    state_->requests = {};
    state_->injected = 0;
  }

  std::uint64_t requests() const { return locked(&State::requests).all(); }
  std::uint64_t injected() const { return locked(&State::injected); }

  /// Bytes that callbacks were told were moved, since the engine was made.
  std::size_t bytes_reported(zerospan::IoDirection direction) const {
    return locked(direction == zerospan::IoDirection::read ? &State::bytes_read : &State::bytes_written);
  }

  /// The descriptor of the last request.
  int last_descriptor() const { return locked(&State::descriptor); }

  /// From now on completions are kept back.
  void hold() {
    const std::scoped_lock lock{state_->mutex};
    state_->is_holding = true;
  }

  /// Blocks until `count` completions are held.
  void wait_for_held(std::size_t count) {
    std::unique_lock lock{state_->mutex};
    state_->changed.wait(lock, [&] { return state_->held.size() >= count; });
  }

  /// Calls the held callback whose request came first, on this thread. False if there is none.
  bool release_next() { return call_next(&State::held); }

  /// Ends `hold` and calls all held callbacks in the order of their requests, on this thread.
  void release() {
    {
      const std::scoped_lock lock{state_->mutex};
      state_->is_holding = false;
    }
    while (release_next()) {
    }
  }

  /// Blocks until no request is with the other engine or in its callback.
  void wait_idle() {
    std::unique_lock lock{state_->mutex};
    state_->changed.wait(lock, [&] { return state_->under_way == 0; });
  }

  /// Blocks until a fault has been injected since the last `inject`, and what is under way has ended.
  void wait_for_fault() {
    std::unique_lock lock{state_->mutex};
    state_->changed.wait(lock, [&] { return state_->injected > 0 && state_->under_way == 0; });
  }

  std::size_t lost() const {
    const std::scoped_lock lock{state_->mutex};
    return state_->lost.size();
  }

  /// Destroys lost callbacks uncalled.
  void drop_lost() {
    std::map<std::uint64_t, Outcome> dropped;
    const std::scoped_lock lock{state_->mutex};
    dropped.swap(state_->lost);
  }

  /// Calls lost callbacks after all, as if everything had been moved.
  void deliver_lost() {
    while (call_next(&State::lost)) {
    }
  }

 private:
  struct Outcome {
    zerospan::IoCallback callback;
    zerospan::IoDirection direction;
    std::int64_t result;
  };

  struct Plan {
    zerospan::IoRequest request{};
    std::uint64_t index = 0;
    FaultKind kind = FaultKind::error;
    int error_number = 0;
    std::uint64_t bit = 0;
    std::size_t asked = 0;                          // before the fault
    std::shared_ptr<const AlignedBuffer> stored{};  // what is written instead
    bool is_hit = false;
    bool is_lost = false;

    void flip(std::byte* data) const noexcept {
      const std::uint64_t at = bit % (request.bytes * 8);
      data[at / 8] ^= std::byte{1} << at % 8;
    }

    std::int64_t outcome(std::int64_t result) const noexcept {
      if (is_hit && kind == FaultKind::flip && result > 0 && !stored) flip(request.data);
      if (is_hit && (kind == FaultKind::flip || kind == FaultKind::torn)) {
        return result == static_cast<std::int64_t>(request.bytes) ? static_cast<std::int64_t>(asked) : result;
      }
      if (!is_hit || kind == FaultKind::short_transfer) return result;
      if (kind == FaultKind::error) return -error_number;
      return kind == FaultKind::ragged && result > 100 ? result - 100 : std::min<std::int64_t>(result, 0);
    }
  };

  struct State {
    mutable std::mutex mutex;
    std::condition_variable changed;
    std::vector<Fault> faults;
    RequestCounts requests;
    std::uint64_t injected = 0;
    std::uint64_t serial = 0;
    std::size_t under_way = 0;
    std::size_t bytes_read = 0;
    std::size_t bytes_written = 0;
    int descriptor = -1;
    bool is_holding = false;
    std::map<std::uint64_t, Outcome> held;
    std::map<std::uint64_t, Outcome> lost;

    /// Decides what becomes of a request; keeps the callback of one that is lost.
    Plan admit(const zerospan::IoRequest& request, zerospan::IoCallback& callback) {
      Plan plan{.request = request, .index = serial++};
      descriptor = request.file_descriptor;
      const auto fault = std::find_if(faults.begin(), faults.end(),
                                      [&](const Fault& f) { return f.hits(request.direction, requests); });
      requests.add(request.direction);
      if (fault != faults.end()) {
        ++injected;
        plan.is_hit = true;
        plan.kind = fault->kind;
        plan.error_number = fault->error_number;
        plan.bit = fault->bit;
        plan.asked = request.bytes;
        plan.is_lost = fault->kind == FaultKind::lost;
        if (fault->kind == FaultKind::error || fault->kind == FaultKind::zero) plan.request.bytes = 0;
        if (fault->kind == FaultKind::short_transfer && request.bytes > 512) {
          plan.request.bytes = std::max<std::size_t>(512, request.bytes / 2 / 512 * 512);
        }
        if (fault->kind == FaultKind::torn) plan.request.bytes -= std::min<std::size_t>(4096, request.bytes);
        if (fault->kind == FaultKind::flip && request.direction == zerospan::IoDirection::write) {
          const auto copy = std::make_shared<const AlignedBuffer>(request.bytes);
          std::copy_n(request.data, request.bytes, copy->data());
          plan.flip(copy->data());
          plan.request.data = copy->data();
          plan.stored = copy;
        }
      }
      if (plan.is_lost) {
        lost.emplace(plan.index,
                     Outcome{std::move(callback), request.direction, static_cast<std::int64_t>(request.bytes)});
      } else {
        ++under_way;
      }
      return plan;
    }

    /// Every reference to the callback is gone before the request counts as finished.
    void finish(const Plan& plan, zerospan::IoCallback&& callback, std::int64_t result) {
      Outcome outcome{std::exchange(callback, nullptr), plan.request.direction, plan.outcome(result)};
      std::unique_lock lock{mutex};
      if (is_holding) {
        held.emplace(plan.index, std::move(outcome));
      } else {
        count(outcome);
        lock.unlock();
        outcome.callback(outcome.result);
        outcome.callback = nullptr;
        lock.lock();
      }
      --under_way;
      changed.notify_all();
    }

    void count(const Outcome& outcome) noexcept {
      if (outcome.result <= 0) return;
      const auto moved = static_cast<std::size_t>(outcome.result);
      (outcome.direction == zerospan::IoDirection::read ? bytes_read : bytes_written) += moved;
    }
  };

  bool call_next(std::map<std::uint64_t, Outcome> State::*outcomes) {
    std::unique_lock lock{state_->mutex};
    auto& waiting = state_.get()->*outcomes;
    if (waiting.empty()) return false;
    auto next = waiting.extract(waiting.begin());
    state_->count(next.mapped());
    lock.unlock();
    next.mapped().callback(next.mapped().result);
    return true;
  }

  template <class T>
  T locked(T State::*member) const {
    const std::scoped_lock lock{state_->mutex};
    return state_.get()->*member;
  }

  E* inner_;
  std::shared_ptr<State> state_;
};

}  // namespace zerospan_test
