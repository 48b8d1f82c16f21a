/// @file
/// ThreadPhases: how a rank of a ThreadCommunicator goes through a collective with its peers, and ThreadExecution: what
/// moves and sums its bytes.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/thread/thread_group.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// Enqueues, or does at once, what one rank's collectives consist of.
///
/// @concept
/// - `execution.stream(reference)` is the stream that a collective is enqueued on, for `copy_bytes` and
///   `rank_order_sum`;
/// - `execution.fence(stream)` marks what has been enqueued there; the mark is valid until the fourth call after;
/// - `execution.wait(stream, fence)` makes the stream wait for another rank's fence;
/// - `execution.synchronize(stream)` waits for all that is enqueued there;
/// - `E::is_done_at_return` tells that there is nothing to wait for.
template <class E>
concept ThreadExecution = std::movable<E> && requires(E& execution, StreamRef reference, const void* fence) {
  requires std::same_as<const bool, decltype(E::is_done_at_return)>;
  execution.stream(reference);
  { execution.fence(reference) } -> std::same_as<const void*>;
  execution.wait(reference, fence);
  execution.synchronize(reference);
};

struct HostExecution {
  static constexpr bool is_done_at_return = true;

  static StreamRef stream(StreamRef) noexcept { return calling_thread; }
  static const void* fence(StreamRef) noexcept { return nullptr; }
  static void wait(StreamRef, const void*) noexcept {}
  static void synchronize(StreamRef) noexcept {}
};

static_assert(ThreadExecution<HostExecution>);

/// On the calling thread it is done when it returns.
inline void rank_order_sum(StreamRef, std::span<const std::byte* const> inputs, ElementType input_type,
                           std::byte* output, ElementType output_type, std::size_t elements) noexcept {
  rank_order_sum(inputs, input_type, output, output_type, elements);
}

/// Runs the phases of one rank's collectives: no rank begins a phase before all have ended the one before.
template <ThreadExecution E>
class ThreadPhases {
 public:
  ThreadPhases(std::shared_ptr<ThreadGroup> group, Rank rank, E execution)
      : group_{std::move(group)},
        rank_{rank},
        execution_{std::move(execution)},
        operands_(static_cast<std::size_t>(group_->size())) {}

  Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return group_->size(); }
  const std::shared_ptr<ThreadGroup>& group() const noexcept { return group_; }
  const E& execution() const noexcept { return execution_; }

  /// The call of a rank, within a collective.
  const CollectiveCall& call(int rank) const noexcept { return group_->call(Rank{rank}); }

  /// Runs the phases. What one throws is thrown when the peers have left this rank's buffers.
  template <class... Phases>
  void run(Collective what, CollectiveCall own, Phases... phases) {
    if constexpr (E::is_done_at_return) {
      group_->begin(rank_, own);
      ((phases(), group_->meet()), ...);
    } else {
      own.fences[0] = execution_.fence(what.stream);
      group_->begin(rank_, own);
      run_on_stream(what.stream, phases...);
    }
  }

  /// Calls `f(peer)` for every other rank; each rank begins with another one.
  template <class F>
  void for_each_peer(F f) const {
    for (int i = 1; i < size(); ++i) f((rank_.value + i) % size());
  }

  void copy(StreamRef reference, std::byte* to, const std::byte* from, std::size_t bytes) {
    auto stream = execution_.stream(reference);
    if (bytes != 0) copy_bytes(stream, to, from, bytes);
  }

  /// Sums the elements that begin at `first` in every rank's input.
  void sum(StreamRef reference, const Reduction& reduction, std::size_t first, std::size_t elements,
           std::byte* output) {
    const std::size_t offset = first * element_bytes(reduction.input_type);
    for (int rank = 0; rank < size(); ++rank) {
      operands_[static_cast<std::size_t>(rank)] = call(rank).reduction.input + offset;
    }
    auto stream = execution_.stream(reference);
    rank_order_sum(stream, std::span<const std::byte* const>{operands_}, reduction.input_type, output,
                   reduction.output_type, elements);
  }

 private:
  /// Streams wait for each other's fences, in each phase in turn. Where that fails, threads wait for the streams.
  template <class... Phases>
  void run_on_stream(StreamRef stream, Phases... phases) {
    std::exception_ptr error;
    const auto attempt_anyway = [&error](auto action) {
      try {
        action();
      } catch (...) {
        if (!error) error = std::current_exception();
      }
    };
    const auto attempt = [&](auto action) {
      if (!error) attempt_anyway(action);
    };
    std::size_t turn = 0;
    const auto join_peers = [&] {
      for_each_peer([&](int peer) {
        const void* const fence = call(peer).fences[turn % 2];
        if (fence) execution_.wait(stream, fence);  // a peer whose device has failed has none
      });
    };
    [[maybe_unused]] const auto take_turn = [&](auto phase) {
      attempt(phase);
      ++turn;
      attempt([&] { group_->set_fence(rank_, turn % 2, execution_.fence(stream)); });
      group_->meet();
      attempt(join_peers);
    };
    attempt(join_peers);
    (take_turn(phases), ...);
    const bool is_any_in_trouble = group_->meet(error != nullptr);  // from here on nobody reads a fence
    if (is_any_in_trouble) {
      attempt_anyway([&] { execution_.synchronize(stream); });
      group_->meet();
    }
    if (error) std::rethrow_exception(error);
  }

  std::shared_ptr<ThreadGroup> group_;
  Rank rank_;
  E execution_;
  std::vector<const std::byte*> operands_;  // memory for the operands of a sum, which must not fail midway
};

}  // namespace zerospan::inline v0::detail
