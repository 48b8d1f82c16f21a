/// @file
/// ThreadCommunicator: ranks that are threads of one process.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/collective_call.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/rank_family.hpp>
#include <zerospan/comm/thread_execution.hpp>
#include <zerospan/comm/thread_group.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/stream_operations.hpp>

namespace zerospan::inline v0 {

struct ThreadGroupOptions {
  /// How long a rank waits for the others at the beginning of a collective.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};
};

/// One rank of a group of threads. Collectives copy and sum straight from the peers' buffers. All reductions are sums
/// in rank order. On the host (`ThreadCommunicator`) they are done when they return, and the stream plays no part; on a
/// device they are enqueued, and streams wait for the peers' streams.
///
/// Each rank's communicator serves one thread at a time; `abort` may be called from any thread meanwhile. The
/// communicators of a group and of all its duplicates stand and fall together: whatever goes wrong (a rank aborts,
/// diverges, stays away past the timeout, or has destroyed its last communicator while others wait for it) makes the
/// current or next collective of every rank throw. A collective in which all ranks have met completes first, so that
/// no rank returns from it, well or with an error, while a peer still uses its buffers.
///
/// @throws RankFailedError, RankTimeoutError, DivergenceError from every collective, and ConfigurationError for
///   operands that no collective has.
template <ThreadExecution E>
class BasicThreadCommunicator {
 public:
  /// Built by `make_thread_communicators`, `run_ranks` and `duplicate`.
  BasicThreadCommunicator(std::shared_ptr<detail::ThreadGroup> group, std::shared_ptr<detail::RankMembership> member,
                          E execution = {})
      : group_{std::move(group)},
        member_{std::move(member)},
        rank_{group_->rank_of(member_->rank())},
        execution_{std::move(execution)},
        operands_(static_cast<std::size_t>(group_->size())) {}

  /// The same rank, on other memory. @param host Of no use any more.
  template <ThreadExecution Other>
    requires(!std::same_as<Other, E>)
  BasicThreadCommunicator(BasicThreadCommunicator<Other>&& host, E execution)
      : BasicThreadCommunicator{std::move(host.group_), std::move(host.member_), std::move(execution)} {}

  BasicThreadCommunicator(BasicThreadCommunicator&&) noexcept = default;
  BasicThreadCommunicator& operator=(BasicThreadCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return group_->size(); }

  BasicThreadCommunicator duplicate() { return {group_->duplicate(rank()), member_, E{execution_}}; }
  BasicThreadCommunicator split(SplitPlace place) { return {group_->split(rank(), place), member_, E{execution_}}; }
  void abort(const std::string& reason) noexcept { member_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);
  void reduce(Collective what, const Reduction& reduction, Rank root);
  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers);
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root);
  void all_to_all(Collective what, const SliceExchange& exchange);
  void barrier(Collective what) { run(what, {.kind = detail::CollectiveKind::barrier, .name = what.name}); }

 private:
  template <ThreadExecution>
  friend class BasicThreadCommunicator;

  /// Runs the phases of a collective, each between what all ranks have done before and what any rank does after it.
  /// What a phase throws is thrown when the peers have left this rank's buffers.
  template <class... Phases>
  void run(Collective what, detail::CollectiveCall call, Phases... phases);

  struct Slice {
    std::size_t first;
    std::size_t elements;
  };

  /// The elements of a reduction that a rank sums for others. Slices of different ranks share no cache line.
  Slice slice(std::size_t elements, int rank) const noexcept {
    const auto ranks = static_cast<std::size_t>(size());
    const std::size_t even = round_up((elements + ranks - 1) / ranks, 64);
    const std::size_t first = std::min(static_cast<std::size_t>(rank) * even, elements);
    return {first, std::min(even, elements - first)};
  }

  const detail::CollectiveCall& call(int rank) const noexcept { return group_->call(Rank{rank}); }

  /// Sums the elements that begin at `first` in every rank's input.
  void sum(StreamRef stream, const Reduction& reduction, std::size_t first, std::size_t elements, std::byte* output);

  /// Calls `copy(peer)` for every other rank; each rank begins with another one.
  template <class Copy>
  void for_each_peer(Copy copy) const {
    for (int i = 1; i < size(); ++i) copy((rank().value + i) % size());
  }

  void copy(StreamRef reference, std::byte* to, const std::byte* from, std::size_t bytes) {
    auto stream = execution_.stream(reference);
    if (bytes != 0) copy_bytes(stream, to, from, bytes);
  }

  std::shared_ptr<detail::ThreadGroup> group_;
  std::shared_ptr<detail::RankMembership> member_;
  Rank rank_;
  E execution_;
  std::vector<const std::byte*> operands_;  // memory for the operands of a sum, which must not fail midway
};

using ThreadCommunicator = BasicThreadCommunicator<HostExecution>;

static_assert(TrainingCommunicator<ThreadCommunicator> && ExchangesSlices<ThreadCommunicator> &&
              Splits<ThreadCommunicator>);

/// A group of `size` ranks: element r is for the thread of rank r.
/// @throws ConfigurationError for a size below one, or a timeout that is not positive.
inline std::vector<ThreadCommunicator> make_thread_communicators(int size, const ThreadGroupOptions& options = {}) {
  const auto family = std::make_shared<detail::RankFamily>(size);
  const auto group = std::make_shared<detail::ThreadGroup>(family, options.timeout);
  std::vector<ThreadCommunicator> ranks;
  ranks.reserve(static_cast<std::size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    ranks.emplace_back(group, std::make_shared<detail::RankMembership>(family, Rank{rank}));
  }
  return ranks;
}

template <ThreadExecution E>
template <class... Phases>
void BasicThreadCommunicator<E>::run(Collective what, detail::CollectiveCall own, Phases... phases) {
  if constexpr (E::is_done_at_return) {
    group_->begin(rank(), own);
    ((phases(), group_->meet()), ...);
  } else {
    own.fences[0] = execution_.fence(what.stream);
    group_->begin(rank(), own);
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
        if (fence) execution_.wait(what.stream, fence);  // a peer whose device has failed has none
      });
    };
    attempt(join_peers);
    const auto take_turn = [&](auto phase) {
      attempt(phase);
      ++turn;
      attempt([&] { group_->set_fence(rank(), turn % 2, execution_.fence(what.stream)); });
      group_->meet();
      attempt(join_peers);
    };
    (take_turn(phases), ...);
    const bool all_are_well = !group_->meet(error != nullptr);  // from here on nobody reads a fence
    if (!all_are_well) {                                        // streams do not wait for all that they ought to
      attempt_anyway([&] { execution_.synchronize(what.stream); });
      group_->meet();
    }
    if (error) std::rethrow_exception(error);
  }
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::sum(StreamRef reference, const Reduction& reduction, std::size_t first,
                                     std::size_t elements, std::byte* output) {
  const std::size_t offset = first * element_bytes(reduction.input_type);
  for (int rank = 0; rank < size(); ++rank) {
    operands_[static_cast<std::size_t>(rank)] = call(rank).reduction.input + offset;
  }
  auto stream = execution_.stream(reference);
  rank_order_sum(stream, std::span<const std::byte* const>{operands_}, reduction.input_type, output,
                 reduction.output_type, elements);
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::all_gather(Collective what, std::span<const GatherPart> parts) {
  run(what, {.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts}, [&] {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      for_each_peer([&](int peer) {
        const std::size_t offset = static_cast<std::size_t>(peer) * parts[i].shard_bytes;
        copy(what.stream, parts[i].buffer + offset, call(peer).parts[i].buffer + offset, parts[i].shard_bytes);
      });
    }
  });
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::reduce_scatter(Collective what, const Reduction& reduction) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::reduce_scatter, .name = what.name, .reduction = reduction};
  const std::size_t first = static_cast<std::size_t>(rank().value) * reduction.elements;
  detail::require_valid(own, static_cast<std::size_t>(size()) * reduction.elements,
                        reduction.input + first * element_bytes(reduction.input_type));
  // Shard r of every input is read by rank r alone, so that it may write to its own.
  run(what, own, [&] { sum(what.stream, reduction, first, reduction.elements, reduction.output); });
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::reduce(Collective what, const Reduction& reduction, Rank root) {
  detail::CollectiveCall own{
      .kind = detail::CollectiveKind::reduce, .name = what.name, .reduction = reduction, .root = root};
  if (rank() != root) own.reduction.output = nullptr;
  detail::require_valid_root(own, size());
  detail::require_valid(own, reduction.elements, reduction.input);
  // Every rank sums a slice for the root; no other rank reads that slice of any input.
  run(what, own, [&] {
    const auto [first, elements] = slice(reduction.elements, rank().value);
    sum(what.stream, reduction, first, elements,
        call(root.value).reduction.output + first * element_bytes(reduction.output_type));
  });
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::all_reduce(Collective what, const Reduction& reduction) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::all_reduce, .name = what.name, .reduction = reduction};
  detail::require_valid(own, reduction.elements, reduction.input);
  const std::size_t bytes = element_bytes(reduction.output_type);
  const auto sum_own_slice = [&] {
    const auto [first, elements] = slice(reduction.elements, rank().value);
    sum(what.stream, reduction, first, elements, reduction.output + first * bytes);
  };
  const auto copy_others = [&] {  // nobody reads an input any more, which the copies may overwrite
    for_each_peer([&](int peer) {
      const auto [first, elements] = slice(reduction.elements, peer);
      copy(what.stream, reduction.output + first * bytes, call(peer).reduction.output + first * bytes,
           elements * bytes);
    });
  };
  run(what, own, sum_own_slice, copy_others);
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::all_reduce(Collective what, std::span<std::int64_t> integers) {
  group_->begin(rank(), {.kind = detail::CollectiveKind::all_reduce_integers, .name = what.name, .integers = integers});
  const auto [first, elements] = slice(integers.size(), rank().value);
  for_each_peer([&](int peer) {
    const auto addends = call(peer).integers.subspan(first, elements);
    for (std::size_t i = 0; i < elements; ++i) integers[first + i] += addends[i];
  });
  group_->meet();
  for_each_peer([&](int peer) {
    const auto [peer_first, peer_elements] = slice(integers.size(), peer);
    std::ranges::copy(call(peer).integers.subspan(peer_first, peer_elements),
                      integers.begin() + static_cast<std::ptrdiff_t>(peer_first));
  });
  group_->meet();
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::broadcast, .name = what.name, .bytes = bytes, .root = root};
  detail::require_valid_root(own, size());
  run(what, own, [&] {
    if (rank() != root) copy(what.stream, bytes.data(), call(root.value).bytes.data(), bytes.size());
  });
}

template <ThreadExecution E>
void BasicThreadCommunicator<E>::all_to_all(Collective what, const SliceExchange& exchange) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::all_to_all, .name = what.name, .exchange = exchange};
  detail::require_apart(own, size());
  run(what, own, [&] {
    const auto copy_from = [&](int peer) {
      copy(what.stream, exchange.output + static_cast<std::size_t>(peer) * exchange.bytes,
           call(peer).exchange.input + static_cast<std::size_t>(rank().value) * exchange.bytes, exchange.bytes);
    };
    for_each_peer(copy_from);
    copy_from(rank().value);
  });
}

}  // namespace zerospan::inline v0
