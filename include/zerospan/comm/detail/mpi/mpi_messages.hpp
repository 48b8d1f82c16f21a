/// @file
/// MpiGroup, and messages among its members: what is under way, and the memory that it is sent from and received in.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/mpi/mpi_link.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/mpi_error.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Some ranks of a link, with this one, numbered anew from 0.
class MpiGroup {
 public:
  /// All ranks, as they are.
  explicit MpiGroup(MpiLink& link) : MpiGroup{link, all_of(link)} {}

  /// @param ranks Of the link, in the order of their new numbers.
  MpiGroup(MpiLink& link, std::vector<int> ranks)
      : link_{&link},
        ranks_{std::move(ranks)},
        me_{static_cast<int>(std::ranges::find(ranks_, link.rank()) - ranks_.begin())} {}

  MpiLink& link() const noexcept { return *link_; }
  int rank() const noexcept { return me_; }
  int size() const noexcept { return static_cast<int>(ranks_.size()); }

  /// The rank of a member in the link, which errors name.
  int in_link(int member) const noexcept { return ranks_[static_cast<std::size_t>(member)]; }

  /// Calls `act(to, from)` for every distance: to which member this one sends, from which it receives.
  template <class Act>
  void for_each_distance(Act act) const {
    for (int i = 1; i < size(); ++i) act(sends_to(i), receives_from(i));
  }

  /// Calls `send(to)` and `receive(from)` for the distances from `first` to `last`, all sends first. Before MPI sends a
  /// large message it asks the receiver, whose answer over TCP queues behind the data that it is sending itself. If
  /// both ranks have asked before either answers, they send at once; otherwise one after the other.
  template <class Send, class Receive>
  void exchange(Send send, Receive receive, int first = 1, int last = std::numeric_limits<int>::max()) const {
    const int end = std::min(last, size() - 1) + 1;
    for (int i = first; i < end; ++i) send(sends_to(i));
    for (int i = first; i < end; ++i) receive(receives_from(i));
  }

 private:
  int sends_to(int distance) const noexcept { return (me_ + distance) % size(); }
  int receives_from(int distance) const noexcept { return (me_ + size() - distance) % size(); }

  static std::vector<int> all_of(const MpiLink& link) {
    std::vector<int> ranks(static_cast<std::size_t>(link.size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }

  MpiLink* link_;
  std::vector<int> ranks_;
  int me_;
};

/// Messages to and from the members of a group, that end together. Their memory is the caller's, and MPI's until they
/// are done. None blocks.
class MpiMessages {
 public:
  explicit MpiMessages(std::shared_ptr<const MpiGroup> group) noexcept : group_{std::move(group)} {}
  MpiMessages(MpiMessages&& other) noexcept
      : group_{other.group_},
        requests_{std::exchange(other.requests_, {})},
        about_{std::exchange(other.about_, {})},
        ended_{std::move(other.ended_)},
        pending_{std::exchange(other.pending_, 0)} {}
  MpiMessages& operator=(MpiMessages&&) = delete;
  ~MpiMessages() {
    if (!is_done()) abandon();
  }

  /// Bytes beyond the largest message go as several messages, in order; no bytes as none.
  void send(int peer, int tag, const std::byte* from, std::size_t bytes) {
    in_pieces(bytes, [&](std::size_t first, int count) {
      add(peer, Way::out, [&](MPI_Request* request) {
        return MPI_Isend(from + first, count, MPI_BYTE, group_->in_link(peer), tag, link().handle(), request);
      });
    });
  }

  /// As many bytes as the sender sends; if they fit one message, it may send fewer.
  void receive(int peer, int tag, std::byte* to, std::size_t bytes) {
    in_pieces(bytes, [&](std::size_t first, int count) {
      add(peer, Way::in, [&](MPI_Request* request) {
        return MPI_Irecv(to + first, count, MPI_BYTE, group_->in_link(peer), tag, link().handle(), request);
      });
    });
  }

  bool is_done() const noexcept { return pending_ == 0; }
  std::size_t size() const noexcept { return requests_.size(); }

  /// Asks MPI which messages have ended. When all have, the list is empty again.
  /// @param received Is called with the sender of each message that has been received.
  /// @return How many messages have ended since the last poll.
  template <class Received>
  int poll(Received received) {
    if (pending_ == 0) return 0;
    int count = 0;
    link().ask("MPI_Testsome", [&] {
      return MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, ended_.data(),
                          MPI_STATUSES_IGNORE);
    });
    for (int i = 0; i < count; ++i) {
      const auto index = static_cast<std::size_t>(ended_[static_cast<std::size_t>(i)]);
      if (about_[index].way == Way::in) received(about_[index].peer);
    }
    pending_ -= static_cast<std::size_t>(count);
    if (pending_ == 0) clear();
    return count;
  }
  int poll() {
    return poll([](int) {});
  }

  /// The peers, in order, whose messages have not arrived; if all have, those that have not received theirs.
  std::vector<int> awaited_peers() const {
    std::vector<int> peers = pending_peers(Way::in);
    if (peers.empty()) peers = pending_peers(Way::out);
    return peers;
  }

  /// Gives up messages that have not ended: cancels those to be received, and waits briefly for that.
  /// @return Whether MPI has no use for any of the messages' memory any more.
  bool abandon() noexcept {
    try {
      for (std::size_t i = 0; i < requests_.size(); ++i) {
        if (about_[i].way == Way::out || requests_[i] == MPI_REQUEST_NULL) continue;
        link().ask("MPI_Cancel", [&] { return MPI_Cancel(&requests_[i]); });
      }
      const auto deadline = moment_after(std::chrono::milliseconds{100});
      for (PollPacing pacing{MpiAwaited::messages}; !is_done() && PollPacing::Clock::now() < deadline;) {
        if (poll() == 0) pacing.pause();
      }
    } catch (...) {  // MPI cannot tell whether they have ended
    }
    const bool is_quiet = is_done();
    clear();
    return is_quiet;
  }

 private:
  enum class Way : std::uint8_t { in, out };
  struct About {
    int peer;
    Way way;
  };

  MpiLink& link() const noexcept { return group_->link(); }

  template <class Piece>
  void in_pieces(std::size_t bytes, Piece piece) {
    const std::size_t largest = link().options().largest_message.count;
    for (std::size_t first = 0; first < bytes; first += largest) {
      piece(first, static_cast<int>(std::min(largest, bytes - first)));
    }
  }

  /// @param start `start(request)` calls MPI.
  template <class Start>
  void add(int peer, Way way, Start start) {
    about_.push_back({peer, way});
    ended_.push_back(0);
    requests_.push_back(MPI_REQUEST_NULL);
    link().ask(way == Way::out ? "MPI_Isend" : "MPI_Irecv", [&] { return start(&requests_.back()); });
    ++pending_;
  }

  std::vector<int> pending_peers(Way way) const {
    std::vector<int> peers;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (about_[i].way == way && requests_[i] != MPI_REQUEST_NULL) peers.push_back(about_[i].peer);
    }
    std::ranges::sort(peers);
    const auto repeated = std::ranges::unique(peers);
    peers.erase(repeated.begin(), repeated.end());
    return peers;
  }

  void clear() noexcept {
    requests_.clear();
    about_.clear();
    ended_.clear();
    pending_ = 0;
  }

  std::shared_ptr<const MpiGroup> group_;
  std::vector<MPI_Request> requests_;
  std::vector<About> about_;
  std::vector<int> ended_;  // memory for MPI_Testsome
  std::size_t pending_ = 0;
};

/// What a rank sends to every other at the beginning of a collective, or when it ends its communicator. Ranks are
/// processes of one program, on machines of one byte order.
struct MpiCallHeader {
  enum class News : std::uint64_t { call, goodbye };

  std::uint64_t fingerprint = 0;
  std::uint64_t offer = 0;  ///< When duplicating or splitting: the channel that this rank offers.
  News news = News::call;
};
static_assert(std::has_unique_object_representations_v<MpiCallHeader>);

/// Memory for one message from each rank of a group, and for one to each, and the messages under way there.
class MpiSlots {
 public:
  MpiSlots(const std::shared_ptr<const MpiGroup>& group, std::size_t slot_bytes)
      : messages_{group},
        slot_bytes_{slot_bytes},
        inbox_(slot_bytes * static_cast<std::size_t>(group->size())),
        outbox_(inbox_.size()) {}
  MpiSlots(MpiSlots&&) noexcept = default;
  MpiSlots& operator=(MpiSlots&&) = delete;

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

  /// Begins to receive a message of at most a slot.
  void receive(int rank, int tag) { messages_.receive(rank, tag, from(rank), slot_bytes_); }

  /// Begins to send what a rank's slot begins with.
  void send(int rank, int tag, std::size_t bytes) { messages_.send(rank, tag, to(rank), bytes); }

  /// Gives up all messages. Memory that MPI may still use is never freed.
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

/// Memory that grows to the most that was asked for, and is kept for the next collective.
class MpiScratch {
 public:
  MpiScratch() noexcept = default;
  MpiScratch(MpiScratch&& other) noexcept : bytes_{std::move(other.bytes_)}, size_{std::exchange(other.size_, 0)} {}
  MpiScratch& operator=(MpiScratch&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  /// @return Memory of undefined contents.
  std::byte* at_least(std::size_t bytes) {
    if (bytes > size_) {
      bytes_.reset();
      size_ = 0;
      bytes_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      size_ = bytes;
    }
    return bytes_.get();
  }

  /// Never frees the memory: messages that use it may not have ended.
  void abandon() noexcept {
    static_cast<void>(bytes_.release());
    size_ = 0;
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_ = 0;
};

}  // namespace zerospan::inline v0::detail
