/// @file
/// A failure as ranks tell each other of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_progress.hpp>
#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A failure, and how far the rank that tells of it had come. It is short enough for MPI to send at once: of many
/// channels it has the latest, of a long text the beginning.
struct MpiAnnouncement {
  static constexpr std::size_t most_channels = 64;
  static constexpr std::size_t longest_text = 2048;

  Failure failure;
  std::vector<MpiBegun> begun;
};

/// What an announcement begins with; then come the counts of channels, then the text.
struct MpiAnnouncementHead {
  std::int32_t kind;
  std::int32_t culprit;
  std::uint64_t channels;
};

inline std::vector<std::byte> to_bytes(const MpiAnnouncement& said) {
  const MpiAnnouncementHead head{static_cast<std::int32_t>(said.failure.kind), said.failure.culprit.value,
                                 said.begun.size()};
  const std::size_t text_bytes = std::min(said.failure.text.size(), MpiAnnouncement::longest_text);
  const std::size_t begun_bytes = said.begun.size() * sizeof(MpiBegun);
  std::vector<std::byte> bytes(sizeof head + begun_bytes + text_bytes);
  std::memcpy(bytes.data(), &head, sizeof head);
  if (begun_bytes > 0) std::memcpy(bytes.data() + sizeof head, said.begun.data(), begun_bytes);
  std::memcpy(bytes.data() + sizeof head + begun_bytes, said.failure.text.data(), text_bytes);
  return bytes;
}

inline MpiAnnouncement announcement_of(const std::vector<std::byte>& bytes) {
  MpiAnnouncementHead head{};
  std::memcpy(&head, bytes.data(), sizeof head);
  std::vector<MpiBegun> begun(head.channels);
  const std::size_t begun_bytes = begun.size() * sizeof(MpiBegun);
  if (begun_bytes > 0) std::memcpy(begun.data(), bytes.data() + sizeof head, begun_bytes);
  const auto* const text = reinterpret_cast<const char*>(bytes.data()) + sizeof head + begun_bytes;
  return {{static_cast<Failure::Kind>(head.kind), Rank{head.culprit},
           std::string(text, bytes.size() - sizeof head - begun_bytes)},
          std::move(begun)};
}

}  // namespace zerospan::inline v0::detail
