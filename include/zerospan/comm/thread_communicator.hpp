/// @file
/// ThreadCommunicator: ranks that are threads of one process.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/collective_call.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/rank_family.hpp>
#include <zerospan/comm/rank_order_sum.hpp>
#include <zerospan/comm/thread_group.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

struct ThreadGroupOptions {
  /// How long a rank waits for the others at the beginning of a collective.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};
};

/// One rank of a group of threads. Collectives copy and sum straight from the peers' buffers, on the calling thread,
/// and are done when they return (the stream plays no part). All reductions are sums in rank order.
///
/// Each rank's communicator serves one thread at a time; `abort` may be called from any thread meanwhile. The
/// communicators of a group and of all its duplicates stand and fall together: whatever goes wrong (a rank aborts,
/// diverges, stays away past the timeout, or has destroyed its last communicator while others wait for it) makes the
/// current or next collective of every rank throw. A collective in which all ranks have met completes first, so that
/// no rank returns from it, well or with an error, while a peer still uses its buffers.
///
/// @throws RankFailedError, RankTimeoutError, DivergenceError from every collective, and ConfigurationError for
///   operands that no collective has.
class ThreadCommunicator {
 public:
  /// Built by `make_thread_communicators`, `run_ranks` and `duplicate`.
  ThreadCommunicator(std::shared_ptr<detail::ThreadGroup> group, std::shared_ptr<detail::RankMembership> member)
      : group_{std::move(group)}, member_{std::move(member)}, operands_(static_cast<std::size_t>(group_->size())) {}
  ThreadCommunicator(ThreadCommunicator&&) noexcept = default;
  ThreadCommunicator& operator=(ThreadCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return member_->rank(); }
  int size() const noexcept { return group_->size(); }

  ThreadCommunicator duplicate() { return {group_->duplicate(rank()), member_}; }
  void abort(const std::string& reason) noexcept { member_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);
  void reduce(Collective what, const Reduction& reduction, Rank root);
  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers);
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root);
  void barrier(Collective what) { group_->begin(rank(), {.kind = detail::CollectiveKind::barrier, .name = what.name}); }

 private:
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
  void sum(const Reduction& reduction, std::size_t first, std::size_t elements, std::byte* output) noexcept;

  /// Calls `copy(peer)` for every other rank; each rank begins with another one.
  template <class Copy>
  void for_each_peer(Copy copy) const {
    for (int i = 1; i < size(); ++i) copy((rank().value + i) % size());
  }

  static void copy(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }

  std::shared_ptr<detail::ThreadGroup> group_;
  std::shared_ptr<detail::RankMembership> member_;
  std::vector<const std::byte*> operands_;  // memory for the operands of a sum, which must not fail midway
};

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

inline void ThreadCommunicator::sum(const Reduction& reduction, std::size_t first, std::size_t elements,
                                    std::byte* output) noexcept {
  const std::size_t offset = first * element_bytes(reduction.input_type);
  for (int rank = 0; rank < size(); ++rank) {
    operands_[static_cast<std::size_t>(rank)] = call(rank).reduction.input + offset;
  }
  rank_order_sum(operands_, reduction.input_type, output, reduction.output_type, elements);
}

inline void ThreadCommunicator::all_gather(Collective what, std::span<const GatherPart> parts) {
  group_->begin(rank(), {.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts});
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for_each_peer([&](int peer) {
      const std::size_t offset = static_cast<std::size_t>(peer) * parts[i].shard_bytes;
      copy(parts[i].buffer + offset, call(peer).parts[i].buffer + offset, parts[i].shard_bytes);
    });
  }
  group_->meet();
}

inline void ThreadCommunicator::reduce_scatter(Collective what, const Reduction& reduction) {
  const detail::CollectiveCall call{
      .kind = detail::CollectiveKind::reduce_scatter, .name = what.name, .reduction = reduction};
  const std::size_t first = static_cast<std::size_t>(rank().value) * reduction.elements;
  detail::require_valid(call, static_cast<std::size_t>(size()) * reduction.elements,
                        reduction.input + first * element_bytes(reduction.input_type));
  group_->begin(rank(), call);
  // Shard r of every input is read by rank r alone, so that it may write to its own.
  sum(reduction, first, reduction.elements, reduction.output);
  group_->meet();
}

inline void ThreadCommunicator::reduce(Collective what, const Reduction& reduction, Rank root) {
  detail::CollectiveCall own{
      .kind = detail::CollectiveKind::reduce, .name = what.name, .reduction = reduction, .root = root};
  if (rank() != root) own.reduction.output = nullptr;
  detail::require_valid_root(own, size());
  detail::require_valid(own, reduction.elements, reduction.input);
  group_->begin(rank(), own);
  // Every rank sums a slice for the root; no other rank reads that slice of any input.
  const auto [first, elements] = slice(reduction.elements, rank().value);
  sum(reduction, first, elements, call(root.value).reduction.output + first * element_bytes(reduction.output_type));
  group_->meet();
}

inline void ThreadCommunicator::all_reduce(Collective what, const Reduction& reduction) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::all_reduce, .name = what.name, .reduction = reduction};
  detail::require_valid(own, reduction.elements, reduction.input);
  group_->begin(rank(), own);
  const std::size_t bytes = element_bytes(reduction.output_type);
  const auto [first, elements] = slice(reduction.elements, rank().value);
  sum(reduction, first, elements, reduction.output + first * bytes);
  group_->meet();  // from here on nobody reads an input, which the copies may overwrite
  for_each_peer([&](int peer) {
    const auto [peer_first, peer_elements] = slice(reduction.elements, peer);
    copy(reduction.output + peer_first * bytes, call(peer).reduction.output + peer_first * bytes,
         peer_elements * bytes);
  });
  group_->meet();
}

inline void ThreadCommunicator::all_reduce(Collective what, std::span<std::int64_t> integers) {
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

inline void ThreadCommunicator::broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
  const detail::CollectiveCall own{
      .kind = detail::CollectiveKind::broadcast, .name = what.name, .bytes = bytes, .root = root};
  detail::require_valid_root(own, size());
  group_->begin(rank(), own);
  if (rank() != root) copy(bytes.data(), call(root.value).bytes.data(), bytes.size());
  group_->meet();
}

static_assert(TrainingCommunicator<ThreadCommunicator>);

}  // namespace zerospan::inline v0
