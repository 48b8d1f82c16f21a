/// @file
/// ThreadExchange: the ByteExchange of ranks that are threads of one process.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Exchanges bytes over a ThreadCommunicator, and has a board in memory that the threads share.
class ThreadExchange {
 public:
  /// A collective of the ranks.
  /// @throws What the communicator throws.
  explicit ThreadExchange(ThreadCommunicator communicator) : exchange_{std::move(communicator)} {
    if (rank() == Rank{0}) board_ = std::make_shared<Board>(static_cast<std::size_t>(size()));
    const std::shared_ptr<Board>* const mine = &board_;
    std::vector<const std::shared_ptr<Board>*> all(static_cast<std::size_t>(size()));
    exchange_.all_gather(std::as_bytes(std::span{&mine, 1}), std::as_writable_bytes(std::span{all}));
    if (rank() != Rank{0}) board_ = *all.front();
    exchange_.communicator().barrier({calling_thread, "the board is known"});  // until then rank 0 stays where it is
  }

  Rank rank() const { return exchange_.rank(); }
  int size() const { return exchange_.size(); }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) { exchange_.all_gather(mine, all); }

  /// The duplicate has the same board.
  ThreadExchange duplicate() { return {exchange_.duplicate(), board_}; }
  /// Each group has a board of its own.
  ThreadExchange split(SplitPlace place) { return ThreadExchange{exchange_.communicator().split(place)}; }
  void abort(const std::string& reason) noexcept { exchange_.abort(reason); }

  void post(std::span<const std::byte> bytes) {
    const std::scoped_lock lock{board_->mutex};
    board_->posts[static_cast<std::size_t>(rank().value)].assign(bytes.begin(), bytes.end());
  }
  std::vector<std::byte> peek(Rank rank) const {
    const std::scoped_lock lock{board_->mutex};
    return board_->posts[static_cast<std::size_t>(rank.value)];
  }

 private:
  struct Board {
    explicit Board(std::size_t ranks) : posts(ranks) {}

    std::mutex mutex;
    std::vector<std::vector<std::byte>> posts;  // guarded by the mutex
  };

  ThreadExchange(CommunicatorExchange<ThreadCommunicator> exchange, std::shared_ptr<Board> board) noexcept
      : exchange_{std::move(exchange)}, board_{std::move(board)} {}

  CommunicatorExchange<ThreadCommunicator> exchange_;
  std::shared_ptr<Board> board_;
};

static_assert(DuplicatesExchange<ThreadExchange> && SplitsExchange<ThreadExchange> && AbortsExchange<ThreadExchange> &&
              PostsToBoard<ThreadExchange>);

}  // namespace zerospan::inline v0
