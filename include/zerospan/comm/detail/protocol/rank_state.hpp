/// @file
/// What a rank shows on a board: whether it has failed, and what it has called on each communicator.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

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

/// The failure as it is sent.
struct FailureRecord {
  std::uint64_t exists;
  std::uint64_t kind;
  std::int64_t culprit;
  std::array<char, 1000> text;  ///< Cut if need be; ends with a zero.
};
static_assert(std::is_trivially_copyable_v<FailureRecord>);

inline std::vector<std::byte> to_bytes(const RankState& state) {
  FailureRecord failure{};
  if (state.failure) {
    failure.exists = 1;
    failure.kind = static_cast<std::uint64_t>(state.failure->kind);
    failure.culprit = state.failure->culprit.value;
    keep_text(failure.text, state.failure->text);
  }
  const auto sequences = std::as_bytes(std::span{state.sequences});
  std::vector<std::byte> bytes(sizeof failure + sequences.size());
  std::memcpy(bytes.data(), &failure, sizeof failure);
  if (!sequences.empty()) std::memcpy(bytes.data() + sizeof failure, sequences.data(), sequences.size());
  return bytes;
}

/// Of no bytes: a rank that is well and has called nothing.
inline RankState to_rank_state(std::span<const std::byte> bytes) {
  RankState state;
  FailureRecord failure{};
  if (bytes.size() < sizeof failure) return state;
  std::memcpy(&failure, bytes.data(), sizeof failure);
  if (failure.exists != 0) {
    state.failure =
        Failure{static_cast<Failure::Kind>(failure.kind), Rank{static_cast<int>(failure.culprit)}, failure.text.data()};
  }
  state.sequences.resize((bytes.size() - sizeof failure) / sizeof(SequenceRecord));
  if (!state.sequences.empty()) {
    std::memcpy(state.sequences.data(), bytes.data() + sizeof failure, std::span{state.sequences}.size_bytes());
  }
  return state;
}

}  // namespace zerospan::inline v0::detail
