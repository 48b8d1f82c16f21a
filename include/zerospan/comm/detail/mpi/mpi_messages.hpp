/// @file
/// Messages that are under way.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_group.hpp>
#include <zerospan/comm/detail/mpi/mpi_link.hpp>
#include <zerospan/comm/detail/mpi/mpi_patience.hpp>
#include <zerospan/comm/mpi_error.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

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

  /// What is larger than the largest message goes as several, in order; nothing as none.
  void send(int peer, int tag, const std::byte* from, std::size_t bytes) {
    in_pieces(bytes, [&](std::size_t first, int count) {
      add(peer, Way::out, [&](MPI_Request* request) {
        return MPI_Isend(from + first, count, MPI_BYTE, group_->in_link(peer), tag, link().handle(), request);
      });
    });
  }

  /// The sender sends as many bytes; or no more, if they are one message.
  void receive(int peer, int tag, std::byte* to, std::size_t bytes) {
    in_pieces(bytes, [&](std::size_t first, int count) {
      add(peer, Way::in, [&](MPI_Request* request) {
        return MPI_Irecv(to + first, count, MPI_BYTE, group_->in_link(peer), tag, link().handle(), request);
      });
    });
  }

  bool is_done() const noexcept { return pending_ == 0; }
  std::size_t size() const noexcept { return requests_.size(); }

  /// Asks MPI what has ended. When everything has, there are no messages again.
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

  /// The peers, in order, from which messages are awaited; failing those, those that have not taken theirs.
  std::vector<int> awaited_peers() const {
    std::vector<int> peers = pending_peers(Way::in);
    if (peers.empty()) peers = pending_peers(Way::out);
    return peers;
  }

  /// Gives up what has not ended: cancels what is to be received, and waits for that briefly.
  /// @return Whether MPI has no use for any of the messages' memory any more.
  bool abandon() noexcept {
    try {
      for (std::size_t i = 0; i < requests_.size(); ++i) {
        if (about_[i].way == Way::out || requests_[i] == MPI_REQUEST_NULL) continue;
        link().ask("MPI_Cancel", [&] { return MPI_Cancel(&requests_[i]); });
      }
      const auto deadline = moment_after(std::chrono::milliseconds{100});
      for (MpiPatience patience{MpiAwaited::messages}; !is_done() && MpiPatience::Clock::now() < deadline;) {
        if (poll() == 0) patience.pause();
      }
    } catch (...) {  // MPI does not say how they are
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
  std::vector<int> ended_;  // memory for what a poll finds
  std::size_t pending_ = 0;
};

}  // namespace zerospan::inline v0::detail
