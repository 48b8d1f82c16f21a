/// @file
/// What ranks say to each other, and the memory that it lies in.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_call_header.hpp>
#include <zerospan/comm/detail/mpi/mpi_group.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// A slot for each rank of a group, for what it says, and one for what it is told.
class MpiMail {
 public:
  MpiMail(const std::shared_ptr<const MpiGroup>& group, std::size_t slot_bytes)
      : messages_{group},
        slot_bytes_{slot_bytes},
        inbox_(slot_bytes * static_cast<std::size_t>(group->size())),
        outbox_(inbox_.size()) {}
  MpiMail(MpiMail&&) noexcept = default;
  MpiMail& operator=(MpiMail&&) = delete;

  MpiMessages& messages() noexcept { return messages_; }
  const MpiMessages& messages() const noexcept { return messages_; }
  std::size_t slot_bytes() const noexcept { return slot_bytes_; }

  std::byte* from(int rank) noexcept { return inbox_.data() + offset(rank); }
  const std::byte* from(int rank) const noexcept { return inbox_.data() + offset(rank); }
  std::byte* to(int rank) noexcept { return outbox_.data() + offset(rank); }

  MpiCallHeader header_from(int rank) const noexcept {
    MpiCallHeader header;
    std::memcpy(&header, from(rank), sizeof header);
    return header;
  }

  /// Awaits whatever a rank says.
  void receive(int rank, int tag) { messages_.receive(rank, tag, from(rank), slot_bytes_); }

  /// Sends what begins a rank's slot.
  void send(int rank, int tag, std::size_t bytes) { messages_.send(rank, tag, to(rank), bytes); }

  /// Gives up all messages. The memory of those that MPI does not give up stays for ever.
  void abandon() noexcept {
    if (messages_.abandon()) return;
    static_cast<void>(new (std::nothrow) std::vector<std::byte>(std::move(inbox_)));
    static_cast<void>(new (std::nothrow) std::vector<std::byte>(std::move(outbox_)));
  }

 private:
  std::size_t offset(int rank) const noexcept { return static_cast<std::size_t>(rank) * slot_bytes_; }

  MpiMessages messages_;
  std::size_t slot_bytes_;
  std::vector<std::byte> inbox_;
  std::vector<std::byte> outbox_;
};

}  // namespace zerospan::inline v0::detail
