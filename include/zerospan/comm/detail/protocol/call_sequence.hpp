/// @file
/// CallSequence: what a rank tells of the collectives that it has called, by which ranks that do not meet at each call
/// notice later that they diverged.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
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

/// The fingerprint of one rank's calls on one communicator.
class CallSequence {
 public:
  explicit CallSequence(std::uint64_t communicator) noexcept : record_{communicator, 0, 0, {}, {}} {
    keep_text(record_.last, "nothing");
    print_.add(communicator);
  }

  /// Counts a call. Returns it in words.
  std::string add(const CollectiveCall& call) {
    std::string text = describe(call, record_.calls);
    detail::add(print_, call);
    record_.hashes[record_.calls % SequenceRecord::history] = print_.value();
    ++record_.calls;
    keep_text(record_.last, text);
    return text;
  }

  void close() noexcept { record_.closed = 1; }
  void all_have_closed() noexcept { record_.closed = 2; }

  const SequenceRecord& record() const noexcept { return record_; }

  /// Names the n-th duplicate of a communicator.
  static std::uint64_t name_of_duplicate(std::uint64_t communicator, std::uint64_t n) noexcept {
    Fingerprint name;
    name.add(communicator);
    name.add(n);
    return name.value();
  }

 private:
  SequenceRecord record_;
  Fingerprint print_;
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

/// Whether two ranks may yet turn out to call the same: one of them may only be behind.
inline bool may_agree(const SequenceRecord& a, const SequenceRecord& b) noexcept { return !first_difference(a, b); }

/// Whether two ranks have called the same, and as much.
inline bool agree_so_far(const SequenceRecord& a, const SequenceRecord& b) noexcept {
  return a.calls == b.calls && may_agree(a, b);
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

/// What each rank called last, described; no words for a rank that has told nothing, whose record is a null pointer.
inline std::vector<std::string> last_calls(std::span<const SequenceRecord* const> ranks) {
  std::vector<std::string> calls;
  for (const SequenceRecord* const rank : ranks) {
    calls.emplace_back(rank == nullptr ? "" : rank->last.data());
    if (rank != nullptr && rank->closed != 0) calls.back() += " and ended";
  }
  return calls;
}

/// What each rank called last, if their records do not `agree`.
/// @param names What messages call the ranks.
template <class Agree>
std::optional<Failure> find_divergence(std::span<const SequenceRecord* const> ranks, std::span<const Rank> names,
                                       Agree agree) {
  const auto culprit = find_culprit(
      ranks.size(), [&](std::size_t rank) { return ranks[rank] != nullptr; },
      [&](std::size_t a, std::size_t b) { return agree(*ranks[a], *ranks[b]); });
  if (!culprit) return std::nullopt;
  return divergence(names, last_calls(ranks), *culprit);
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

/// What a rank shows to the others on a board.
struct RankState {
  std::optional<Failure> failure;
  std::vector<SequenceRecord> sequences;

  /// What is known of a communicator; nullptr if nothing.
  const SequenceRecord* find(std::uint64_t communicator) const noexcept {
    for (const SequenceRecord& record : sequences) {
      if (record.communicator == communicator) return &record;
    }
    return nullptr;
  }
};

/// The state as it is sent: how many failures there are, one or none, the failure, the records.
inline std::vector<std::byte> to_bytes(const RankState& state) {
  const std::uint64_t failures = state.failure ? 1 : 0;
  std::vector<std::byte> bytes(sizeof failures);
  std::memcpy(bytes.data(), &failures, sizeof failures);
  if (state.failure) append(bytes, *state.failure);
  const auto sequences = std::as_bytes(std::span{state.sequences});
  bytes.insert(bytes.end(), sequences.begin(), sequences.end());
  return bytes;
}

/// Of no bytes: a rank that is well and has called nothing.
inline RankState to_rank_state(std::span<const std::byte> bytes) {
  RankState state;
  std::uint64_t failures = 0;
  if (bytes.size() < sizeof failures) return state;
  std::memcpy(&failures, bytes.data(), sizeof failures);
  bytes = bytes.subspan(sizeof failures);
  if (failures != 0) state.failure = take_failure(bytes);
  state.sequences.resize(bytes.size() / sizeof(SequenceRecord));
  if (!state.sequences.empty()) std::memcpy(state.sequences.data(), bytes.data(), bytes.size());
  return state;
}

}  // namespace zerospan::inline v0::detail
