/// @file
/// The running fingerprint of the collectives that a rank has called, by which ranks notice later that they diverged.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// What one rank has called on one communicator; sent to other ranks byte by byte.
struct SequenceRecord {
  static constexpr std::size_t history = 16;

  std::uint64_t communicator;                 ///< The same on every rank.
  std::uint64_t calls;                        ///< Collectives begun.
  std::uint64_t closed;                       ///< 1: the rank calls nothing more. 2: it knows the same of all others.
  std::array<std::uint64_t, history> hashes;  ///< After call k at [k % history].
  std::array<char, 208> last;                 ///< The last call in words, cut if need be; ends with a zero.
};
static_assert(std::is_trivially_copyable_v<SequenceRecord> && sizeof(SequenceRecord) % 8 == 0);

/// Copies as much of the text as fits, and a zero.
template <std::size_t Size>
void keep_text(std::array<char, Size>& to, std::string_view text) noexcept {
  to.fill('\0');
  std::ranges::copy(text.substr(0, Size - 1), to.begin());
}

/// The fingerprint of one rank's calls on one communicator (64-bit FNV-1a, the same on every machine).
class CallSequence {
 public:
  explicit CallSequence(std::uint64_t communicator) noexcept : record_{communicator, 0, 0, {}, {}} {
    keep_text(record_.last, "nothing");
    mix(communicator);
  }

  /// Counts a call. Returns it in words.
  std::string add(const CollectiveCall& call) {
    std::string text = describe(call, record_.calls);
    mix(static_cast<std::uint64_t>(call.kind));
    mix(call.name);
    for (const GatherPart& part : call.parts) mix(part.shard_bytes);
    mix(static_cast<std::uint64_t>(call.reduction.input_type));
    mix(static_cast<std::uint64_t>(call.reduction.output_type));
    mix(call.reduction.elements);
    mix(call.integers.size());
    mix(call.bytes.size());
    mix(static_cast<std::uint64_t>(call.root.value));
    mix(call.exchange.bytes);
    record_.hashes[record_.calls % SequenceRecord::history] = hash_;
    ++record_.calls;
    keep_text(record_.last, text);
    return text;
  }

  void close() noexcept { record_.closed = 1; }
  void all_have_closed() noexcept { record_.closed = 2; }

  const SequenceRecord& record() const noexcept { return record_; }

  /// Names the n-th duplicate of a communicator.
  static std::uint64_t name_of_duplicate(std::uint64_t communicator, std::uint64_t n) noexcept {
    CallSequence name{communicator};
    name.mix(n + 1);
    return name.hash_;
  }

 private:
  void mix_byte(std::uint64_t byte) noexcept { hash_ = (hash_ ^ byte) * 0x100000001B3U; }
  void mix(std::uint64_t value) noexcept {
    for (int shift = 0; shift < 64; shift += 8) mix_byte((value >> shift) & 0xFFU);
  }
  void mix(std::string_view text) noexcept {
    mix(std::uint64_t{text.size()});
    for (const char c : text) mix_byte(static_cast<unsigned char>(c));
  }

  SequenceRecord record_;
  std::uint64_t hash_ = 0xCBF29CE484222325U;
};

/// The number of the first call in which two ranks differ, as far as both have come and remember.
inline std::optional<std::uint64_t> first_difference(const SequenceRecord& a, const SequenceRecord& b) noexcept {
  const std::uint64_t both = std::min(a.calls, b.calls);
  const std::uint64_t most = std::max(a.calls, b.calls);
  for (std::uint64_t k = most > SequenceRecord::history ? most - SequenceRecord::history : 0; k < both; ++k) {
    const std::size_t slot = k % SequenceRecord::history;
    if (a.hashes[slot] != b.hashes[slot]) return k;
  }
  return std::nullopt;
}

/// Whether two ranks may still be on the same way.
inline bool on_one_way(const SequenceRecord& a, const SequenceRecord& b) noexcept { return !first_difference(a, b); }

/// Whether two ranks have called the same.
inline bool at_one_place(const SequenceRecord& a, const SequenceRecord& b) noexcept {
  return a.calls == b.calls && on_one_way(a, b);
}

/// What becomes of what a rank tells of a communicator that it has closed. Others need it until all have closed theirs,
/// and must not take it for a rank that has not come yet when it is gone: so a rank that sees all of them closed says
/// that it does, and forgets its own when all others have said so or have forgotten theirs.
enum class ClosedSequence : std::uint8_t { keep, all_have_closed, forget };

/// @param others What the other ranks tell; a null pointer for nothing.
inline ClosedSequence next_of_closed(const SequenceRecord& own,
                                     std::span<const SequenceRecord* const> others) noexcept {
  const auto is_closed = [](const SequenceRecord* other) { return other != nullptr && other->closed != 0; };
  const auto knows = [](const SequenceRecord* other) { return other != nullptr && other->closed == 2; };
  const auto knows_or_forgot = [&](const SequenceRecord* other) { return other == nullptr || knows(other); };
  if (own.closed == 2) {
    return std::ranges::all_of(others, knows_or_forgot) ? ClosedSequence::forget : ClosedSequence::keep;
  }
  const bool all_closed = std::ranges::all_of(others, is_closed) || std::ranges::any_of(others, knows);
  return own.closed == 1 && all_closed ? ClosedSequence::all_have_closed : ClosedSequence::keep;
}

/// "rank 0: last called ...; rank 1: ...". A null pointer is a rank that has told nothing.
/// @param names What messages call the ranks.
inline std::string last_calls(std::span<const SequenceRecord* const> ranks, std::span<const Rank> names) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    text.append(i == 0 ? "" : "; ").append(describe(names[i]));
    text.append(ranks[i] ? std::string{": "}.append(ranks[i]->last.data()) : std::string{" does not say"});
    if (ranks[i] && ranks[i]->closed != 0) text += " and ended";
  }
  return text;
}

/// What each rank called last, if their records do not `agree`. At fault is the lowest rank that differs from the
/// majority, or from the first that tells anything.
/// @param names What messages call the ranks.
template <class Agree>
std::optional<Failure> find_divergence(std::span<const SequenceRecord* const> ranks, std::span<const Rank> names,
                                       Agree agree) {
  const SequenceRecord* expected = nullptr;
  std::ptrdiff_t most = 0;
  for (const SequenceRecord* const a : ranks) {
    if (a == nullptr) continue;
    const auto supporters = std::ranges::count_if(ranks, [&](const auto* b) { return b != nullptr && agree(*a, *b); });
    if (supporters > most) {
      most = supporters;
      expected = a;
    }
  }
  const auto culprit =
      std::ranges::find_if(ranks, [&](const auto* a) { return a != nullptr && !agree(*a, *expected); });
  if (culprit == ranks.end()) return std::nullopt;
  return Failure{Failure::Kind::divergence, names[static_cast<std::size_t>(culprit - ranks.begin())],
                 "ranks diverge: " + last_calls(ranks, names)};
}

/// Whether every rank has told what it called where the culprit differs from others, so that the majority is known.
inline bool all_have_told(std::span<const SequenceRecord* const> ranks, std::span<const Rank> names, Rank culprit) {
  const SequenceRecord& one = *ranks[static_cast<std::size_t>(std::ranges::find(names, culprit) - names.begin())];
  std::uint64_t call = one.calls;
  for (const SequenceRecord* const other : ranks) {
    if (other != nullptr) call = std::min(call, first_difference(one, *other).value_or(call));
  }
  return std::ranges::all_of(
      ranks, [&](const SequenceRecord* rank) { return rank != nullptr && (rank->calls > call || rank->closed != 0); });
}

}  // namespace zerospan::inline v0::detail
