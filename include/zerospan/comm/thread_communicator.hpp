/// @file
/// ThreadCommunicator: ranks that are threads of one process.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/rank_context.hpp>
#include <zerospan/comm/detail/thread/thread_group.hpp>
#include <zerospan/comm/detail/thread/thread_phases.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

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
/// no rank returns from it, well or with an error, while a peer still uses its buffers. In a process forked from its
/// own, a communicator throws RankFailedError, and its end tells nobody.
///
/// @throws RankFailedError, RankTimeoutError, DivergenceError from every collective, and ConfigurationError for
///   operands that no collective has.
template <detail::ThreadExecution E>
class BasicThreadCommunicator {
 public:
  /// Built by `make_thread_communicators`, `run_ranks`, `duplicate` and `split`.
  BasicThreadCommunicator(std::shared_ptr<detail::ThreadGroup> group, std::shared_ptr<detail::RankMembership> member,
                          E execution = {})
      : member_{std::move(member)}, phases_{group, group->rank_of(member_->rank()), std::move(execution)} {}

  /// The same rank, on other memory. @param host Of no use any more.
  template <detail::ThreadExecution Other>
  requires(!std::same_as<Other, E>) BasicThreadCommunicator(BasicThreadCommunicator<Other>&& host, E execution)
      : BasicThreadCommunicator{host.phases_.group(), std::move(host.member_), std::move(execution)} {}

  BasicThreadCommunicator(BasicThreadCommunicator&&) noexcept = default;
  BasicThreadCommunicator& operator=(BasicThreadCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return phases_.rank(); }
  int size() const noexcept { return phases_.size(); }

  BasicThreadCommunicator duplicate() { return {phases_.group()->duplicate(rank()), member_, E{phases_.execution()}}; }
  BasicThreadCommunicator split(SplitPlace place) {
    return {phases_.group()->split(rank(), place), member_, E{phases_.execution()}};
  }
  void abort(const std::string& reason) noexcept { member_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);
  void reduce(Collective what, const Reduction& reduction, Rank root);
  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers);
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root);
  void all_to_all(Collective what, const SliceExchange& exchange);
  void barrier(Collective what) { phases_.run(what, {.kind = detail::CollectiveKind::barrier, .name = what.name}); }

 private:
  template <detail::ThreadExecution>
  friend class BasicThreadCommunicator;

  /// The elements of a reduction that a rank sums for others.
  detail::ElementRange slice(std::size_t elements, int rank) const noexcept {
    return detail::even_slice(elements, size(), rank);
  }

  std::shared_ptr<detail::RankMembership> member_;
  detail::ThreadPhases<E> phases_;
};

using ThreadCommunicator = BasicThreadCommunicator<detail::HostExecution>;

static_assert(TrainingCommunicator<ThreadCommunicator> && ExchangesSlices<ThreadCommunicator> &&
              Splits<ThreadCommunicator>);

/// A group of `size` ranks: element r is for the thread of rank r.
/// @throws ConfigurationError for a size below one, or a timeout that is not positive.
inline std::vector<ThreadCommunicator> make_thread_communicators(int size, const ThreadGroupOptions& options = {}) {
  const auto context = std::make_shared<detail::RankContext>(size);
  const auto group = std::make_shared<detail::ThreadGroup>(context, options.timeout);
  std::vector<ThreadCommunicator> ranks;
  ranks.reserve(static_cast<std::size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    ranks.emplace_back(group, std::make_shared<detail::RankMembership>(context, Rank{rank}));
  }
  return ranks;
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::all_gather(Collective what, std::span<const GatherPart> parts) {
  phases_.run(what, {.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts}, [&] {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      phases_.for_each_peer([&](int peer) {
        const std::size_t offset = static_cast<std::size_t>(peer) * parts[i].shard_bytes;
        phases_.copy(what.stream, parts[i].buffer + offset, phases_.call(peer).parts[i].buffer + offset,
                     parts[i].shard_bytes);
      });
    }
  });
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::reduce_scatter(Collective what, const Reduction& reduction) {
  const auto own = detail::reduce_scatter_call(what, reduction, rank(), size());
  const std::size_t first = static_cast<std::size_t>(rank().value) * reduction.elements;
  // Shard r of every input is read by rank r alone, so that it may write to its own.
  phases_.run(what, own, [&] { phases_.sum(what.stream, reduction, first, reduction.elements, reduction.output); });
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::reduce(Collective what, const Reduction& reduction, Rank root) {
  const auto own = detail::reduce_call(what, reduction, root, rank(), size());
  // Every rank sums a slice for the root; no other rank reads that slice of any input.
  phases_.run(what, own, [&] {
    const auto [first, elements] = slice(reduction.elements, rank().value);
    phases_.sum(what.stream, reduction, first, elements,
                phases_.call(root.value).reduction.output + first * element_bytes(reduction.output_type));
  });
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::all_reduce(Collective what, const Reduction& reduction) {
  const auto own = detail::all_reduce_call(what, reduction);
  const std::size_t bytes = element_bytes(reduction.output_type);
  const auto sum_own_slice = [&] {
    const auto [first, elements] = slice(reduction.elements, rank().value);
    phases_.sum(what.stream, reduction, first, elements, reduction.output + first * bytes);
  };
  const auto copy_others = [&] {  // nobody reads an input any more, which the copies may overwrite
    phases_.for_each_peer([&](int peer) {
      const auto [first, elements] = slice(reduction.elements, peer);
      phases_.copy(what.stream, reduction.output + first * bytes, phases_.call(peer).reduction.output + first * bytes,
                   elements * bytes);
    });
  };
  phases_.run(what, own, sum_own_slice, copy_others);
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::all_reduce(Collective what, std::span<std::int64_t> integers) {
  const std::uint64_t number = phases_.group()->begin(
      rank(), {.kind = detail::CollectiveKind::all_reduce_integers, .name = what.name, .integers = integers});
  if (integers.size() <= detail::ThreadGroup::most_posted) {
    phases_.for_each_peer([&](int peer) {
      const auto addends = phases_.group()->posted_integers(Rank{peer}, number, integers.size());
      for (std::size_t i = 0; i < integers.size(); ++i) integers[i] += addends[i];
    });
    return;
  }
  const auto [first, elements] = slice(integers.size(), rank().value);
  phases_.for_each_peer([&](int peer) {
    const auto addends = phases_.call(peer).integers.subspan(first, elements);
    for (std::size_t i = 0; i < elements; ++i) integers[first + i] += addends[i];
  });
  phases_.group()->meet();
  phases_.for_each_peer([&](int peer) {
    const auto [peer_first, peer_elements] = slice(integers.size(), peer);
    std::ranges::copy(phases_.call(peer).integers.subspan(peer_first, peer_elements),
                      integers.begin() + static_cast<std::ptrdiff_t>(peer_first));
  });
  phases_.group()->meet();
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
  const auto own = detail::broadcast_call(what, bytes, root, size());
  phases_.run(what, own, [&] {
    if (rank() != root) phases_.copy(what.stream, bytes.data(), phases_.call(root.value).bytes.data(), bytes.size());
  });
}

template <detail::ThreadExecution E>
void BasicThreadCommunicator<E>::all_to_all(Collective what, const SliceExchange& exchange) {
  const auto own = detail::all_to_all_call(what, exchange, size());
  phases_.run(what, own, [&] {
    const auto copy_from = [&](int peer) {
      const std::byte* const slices = phases_.call(peer).exchange.input;
      phases_.copy(what.stream, exchange.output + static_cast<std::size_t>(peer) * exchange.bytes,
                   slices + static_cast<std::size_t>(rank().value) * exchange.bytes, exchange.bytes);
    };
    phases_.for_each_peer(copy_from);
    copy_from(rank().value);
  });
}

#if defined(ZEROSPAN_COMPILED)  // by the target zerospan::compiled, which has it
extern template class BasicThreadCommunicator<detail::HostExecution>;
#endif

}  // namespace zerospan::inline v0
