/// @file
/// The concept ByteExchange: a few bytes of every rank, gathered on the host.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// How ranks tell each other a few bytes on the host, without the devices: the host's own launcher, store or MPI.
///
/// @concept
/// - `exchange.rank()` and `exchange.size()` place the caller; neither ever changes;
/// - `exchange.all_gather(mine, all)` is a collective: afterwards `all` (`size() * mine.size()` bytes) has every rank's
///   bytes in rank order. It blocks, and is called by one thread at a time. It throws, in a time of its own, when a
///   rank does not come: nothing else would wake the caller.
template <class E>
concept ByteExchange = std::movable<E> &&
    requires(E& exchange, const E& constant, std::span<const std::byte> mine, std::span<std::byte> all) {
  { constant.rank() } -> std::same_as<Rank>;
  { constant.size() } -> std::same_as<int>;
  exchange.all_gather(mine, all);
};

/// `exchange.duplicate()` is a collective that makes an independent exchange of the same ranks: gathers of the one
/// never meet those of the other.
template <class E>
concept DuplicatesExchange = ByteExchange<E> && requires(E& exchange) {
  { exchange.duplicate() } -> std::same_as<E>;
};

/// `exchange.split(place)` is a collective that makes independent exchanges, one of each group of ranks, as `split` of
/// a communicator does.
template <class E>
concept SplitsExchange = ByteExchange<E> && requires(E& exchange, SplitPlace place) {
  { exchange.split(place) } -> std::same_as<E>;
};

/// `exchange.abort(reason)` makes every rank that gathers, or ever gathers again, throw. From any thread, at once.
template <class E>
concept AbortsExchange = ByteExchange<E> && requires(E& exchange, const std::string& reason) {
  { exchange.abort(reason) }
  noexcept;
};

/// A board that every rank writes its state on and all can read without its help: how a rank learns, while it waits,
/// that another one has failed, has left or calls something else.
///
/// - `exchange.post(bytes)` replaces what this rank shows;
/// - `exchange.peek(rank)` is what that rank has posted last; empty if nothing yet.
///
/// Both return at once, and are called from one thread, which may be another than that of `all_gather`.
template <class E>
concept PostsToBoard = ByteExchange<E> && requires(E& exchange, std::span<const std::byte> bytes, Rank rank) {
  exchange.post(bytes);
  { exchange.peek(rank) } -> std::same_as<std::vector<std::byte>>;
};

}  // namespace zerospan::inline v0
