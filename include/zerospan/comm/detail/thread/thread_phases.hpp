/// @file
/// How a rank of a ThreadCommunicator goes through a collective with its peers.
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/thread/thread_execution.hpp>
#include <zerospan/comm/detail/thread/thread_group.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// One rank's. A phase of a collective lies between what all ranks have done before and what any rank does after it.
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
