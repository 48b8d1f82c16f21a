/// @file
/// Why a collective cannot begin, in words: what every rendezvous of ranks says alike.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>

#include <zerospan/comm/rank_family.hpp>
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
template <class Agree>
Failure divergence(std::span<const std::string> calls, Agree agree) {
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
  for (std::size_t rank = 0; rank < calls.size(); ++rank) {
    text.append(rank == 0 ? "" : "; ").append(describe(Rank{static_cast<int>(rank)})).append(": ").append(calls[rank]);
  }
  return {Failure::Kind::divergence, Rank{static_cast<int>(culprit)}, text};
}

/// Where a rank stands that throws the failure.
/// @param call What it waits in, described.
/// @return Nothing for a divergence, which lists what every rank called.
inline std::string standing(const Failure& failure, Rank rank, const std::string& call) {
  if (failure.kind == Failure::Kind::divergence) return {};
  return " while " + describe(rank) + " waits in " + call;
}

}  // namespace zerospan::inline v0::detail
