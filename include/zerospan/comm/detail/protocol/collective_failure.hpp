/// @file
/// Why a collective cannot begin, in words: what every rendezvous of ranks says alike.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>

#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A rank that calls nothing more, while others wait for it.
inline Failure has_returned(Rank rank) { return {Failure::Kind::rank_failed, rank, describe(rank) + " returned"}; }

/// Ranks that stay away past the deadline.
/// @param missing In rank order; at least one.
/// @param call Described.
inline Failure not_arrived(std::span<const Rank> missing, const std::string& call, std::chrono::milliseconds timeout) {
  std::string names = missing.size() == 1 ? "rank" : "ranks";
  for (const Rank rank : missing) {
    names.append(rank == missing.front() ? " " : ", ").append(std::to_string(rank.value));
  }
  return {Failure::Kind::timeout, missing.front(),
          names + " did not arrive at " + call + " within " + std::to_string(timeout.count()) + " ms,"};
}

/// What each rank called. At fault is the lowest rank that differs from the majority, or from rank 0 if there is none.
/// @param calls Each rank's, described.
/// @param agree `agree(a, b)`: whether the calls at these places mean the same collective; not all of them do.
/// @param name `name(a)`: the rank that is at that place.
template <class Agree, class Name>
Failure divergence(std::span<const std::string> calls, Agree agree, Name name) {
  const auto supporters = [&](std::size_t a) {
    std::size_t count = 0;
    for (std::size_t b = 0; b < calls.size(); ++b) count += agree(a, b) ? 1 : 0;
    return count;
  };
  std::size_t expected = 0;
  while (expected < calls.size() && 2 * supporters(expected) <= calls.size()) ++expected;
  if (expected == calls.size()) expected = 0;
  std::size_t culprit = 0;
  while (agree(culprit, expected)) ++culprit;

  std::string text = "ranks diverge: ";
  for (std::size_t place = 0; place < calls.size(); ++place) {
    text.append(place == 0 ? "" : "; ").append(describe(name(place))).append(": ").append(calls[place]);
  }
  return {Failure::Kind::divergence, name(culprit), text};
}

/// Of ranks that are at the places of their numbers.
template <class Agree>
Failure divergence(std::span<const std::string> calls, Agree agree) {
  return divergence(calls, agree, [](std::size_t place) { return Rank{static_cast<int>(place)}; });
}

/// Where a rank stands that throws the failure.
/// @param call What it waits in, described.
/// @return Nothing for a divergence, which lists what every rank called.
inline std::string standing(const Failure& failure, Rank rank, const std::string& call) {
  if (failure.kind == Failure::Kind::divergence) return {};
  return " while " + describe(rank) + " waits in " + call;
}

}  // namespace zerospan::inline v0::detail
