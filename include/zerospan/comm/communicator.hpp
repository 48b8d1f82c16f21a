/// @file
/// The concept Communicator, and one concept for each collective.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Passed first to every collective: the stream that it is enqueued on, and what it is for. The name is part of the
/// fingerprint by which ranks notice that they diverge.
struct Collective {
  StreamRef stream;
  std::string_view name;
};

/// One buffer of an all-gather: `size() * shard_bytes` bytes; rank r's shard is at `r * shard_bytes`, in place.
struct GatherPart {
  std::byte* buffer;
  std::size_t shard_bytes;
  std::optional<ElementType> approximable{};  ///< The type of its elements, if they need not arrive to the bit: what
                                              ///< allows a communicator to quantize them, own shard and all.
};

/// The operands of a reduction. Sums are taken in fp32, in rank order 0, 1, ..., and then rounded once to
/// `output_type`.
struct Reduction {
  ElementType input_type;
  std::byte* input;         ///< Reduce-scatter: `size() * elements`; all-reduce and reduce: `elements`. A communicator
                            ///< may leave partial sums in it.
  ElementType output_type;  ///< float32, or the input's type.
  std::byte* output;        ///< `elements`. May be this rank's own shard of the input (reduce-scatter),
                            ///< or the input itself (all-reduce, reduce), when the types are equal.
  std::size_t elements;
};

/// The operands of an all-to-all: `size() * bytes` each, which do not overlap. Slice r of the input goes to rank r;
/// slice r of the output comes from there.
struct SliceExchange {
  const std::byte* input;
  std::byte* output;
  std::size_t bytes;  ///< Of a slice.
};

/// Where `split` puts the calling rank: with the ranks of the same color, in the order of their keys.
struct SplitPlace {
  int color;
  int key;  ///< Different for all ranks of a color.
};

/// A group of ranks that act together.
///
/// @concept
/// - `communicator.rank()` and `communicator.size()` place the caller; neither ever changes;
/// - `communicator.duplicate()` is a collective that makes an independent communicator of the same ranks: what one
///   does never mixes with what the other does;
/// - `communicator.abort(reason)` declares this rank failed: every rank that waits, or ever waits again, in a
///   collective of the group gets a RankFailedError with that reason. It returns at once and never throws.
///
/// Every rank calls the same collectives in the same order with the same sizes; a communicator that can see that they
/// do not throws DivergenceError, RankFailedError or RankTimeoutError on every rank, instead of hanging.
///
/// Operands are device memory, except integers, which are the host's. On the calling thread a collective is done when
/// it returns, on a device's stream it is enqueued; of integers it is done in any case.
template <class C>
concept Communicator = std::movable<C> && requires(C& communicator, const C& constant, const std::string& reason) {
  { constant.rank() } -> std::same_as<Rank>;
  { constant.size() } -> std::same_as<int>;
  { communicator.duplicate() } -> std::same_as<C>;
  { communicator.abort(reason) }
  noexcept;
};

/// `all_gather(collective, parts)`: afterwards every rank has every shard of each part; the parts form one group.
template <class C>
concept AllGathers = Communicator<C> && requires(C& c, Collective what, std::span<const GatherPart> parts) {
  c.all_gather(what, parts);
};

/// `reduce_scatter(collective, reduction)`: rank r's output is the sum over ranks of shard r of their inputs.
template <class C>
concept ReduceScatters = Communicator<C> && requires(C& c, Collective what, const Reduction& reduction) {
  c.reduce_scatter(what, reduction);
};

/// `reduce(collective, reduction, root)`: the root's output is the sum over ranks of their inputs; the output of other
/// ranks plays no part.
template <class C>
concept Reduces = Communicator<C> && requires(C& c, Collective what, const Reduction& reduction, Rank root) {
  c.reduce(what, reduction, root);
};

/// `all_reduce(collective, reduction)`: every rank's output is the sum over ranks of their inputs;
/// `all_reduce(collective, integers)`: each integer becomes its sum over ranks, exactly, in place.
template <class C>
concept AllReduces = Communicator<C> &&
    requires(C& c, Collective what, const Reduction& reduction, std::span<std::int64_t> integers) {
  c.all_reduce(what, reduction);
  c.all_reduce(what, integers);
};

/// `broadcast(collective, bytes, root)`: afterwards every rank has the root's bytes.
template <class C>
concept Broadcasts = Communicator<C> && requires(C& c, Collective what, std::span<std::byte> bytes, Rank root) {
  c.broadcast(what, bytes, root);
};

/// `barrier(collective)`: no rank leaves before every rank has entered.
template <class C>
concept Barriers = Communicator<C> && requires(C& c, Collective what) {
  c.barrier(what);
};

/// `all_to_all(collective, exchange)`: every rank has a slice for every rank.
template <class C>
concept ExchangesSlices = Communicator<C> && requires(C& c, Collective what, const SliceExchange& exchange) {
  c.all_to_all(what, exchange);
};

/// `split(place)`: a collective that makes independent communicators, one of each group of ranks. They stand and fall
/// with the one that was split, and errors go on to name its ranks.
template <class C>
concept Splits = Communicator<C> && requires(C& c, SplitPlace place) {
  { c.split(place) } -> std::same_as<C>;
};

/// Ranks in `groups()` groups of equal size: those of a group are near each other. The ranks at one place of all groups
/// have consecutive numbers, so that their shards are one range, and an all-gather has two halves:
/// `gather_across(collective, parts)` between the groups, after which a rank has the shards of all ranks at its place;
/// `gather_within(collective, parts)` within each group, of what the first half has gathered. (hpZ of ZeRO++, arXiv
/// 2306.10209, section 3.2, keeps what lies between them.)
template <class C>
concept Grouped = AllGathers<C> &&
    requires(C& c, const C& constant, Collective what, std::span<const GatherPart> parts) {
  { constant.groups() } -> std::same_as<int>;
  c.gather_across(what, parts);
  c.gather_within(what, parts);
};

/// Ranks that are each one of `replicas()`, numbered from 0 by `replica()`, which hold the same shards: gathers are
/// among the ranks of one replica, sums over the ranks of all. Rank 0 in a broadcast is that of replica 0.
template <class C>
concept Replicates = Communicator<C> && requires(const C& constant) {
  { constant.replicas() } -> std::same_as<int>;
  { constant.replica() } -> std::same_as<int>;
};

/// `on_failure(told)`: calls `told(error)` once, on any thread, for a failure that is found after the collective has
/// returned, before whoever waits for the collective goes on: for collectives that are enqueued on a device's stream.
/// An empty function replaces the last one: no call of that one is under way any more when `on_failure` returns.
template <class C>
concept ReportsFailures = Communicator<C> && requires(C& c, std::function<void(std::exception_ptr)> told) {
  c.on_failure(std::move(told));
};

/// `register_memory(data, bytes)`: collectives on that memory, which outlives the communicator, may go faster.
template <class C>
concept RegistersMemory = Communicator<C> && requires(C& c, std::byte* data, Bytes bytes) {
  c.register_memory(data, bytes);
};

/// `verify()`: a collective that throws DivergenceError unless all ranks have made the same calls so far; for
/// communicators that cannot see it at each call.
template <class C>
concept VerifiesCalls = Communicator<C> && requires(C& c) {
  c.verify();
};

/// `duplicates_take_memory`: whether each duplicate takes device memory of its own, and so a budget must have room for
/// it.
template <class C>
concept DuplicatesTakeMemory = Communicator<C> && C::duplicates_take_memory;

/// What the engine needs.
template <class C>
concept TrainingCommunicator =
    AllGathers<C> && ReduceScatters<C> && Reduces<C> && AllReduces<C> && Broadcasts<C> && Barriers<C>;

}  // namespace zerospan::inline v0
