/// @file
/// What the ranks of a fake NCCL communicator share: messages, and what a test sees and sets.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace fake {

using zerospan::Rank;
using zerospan::detail::NcclResult;

/// What the ranks of one communicator share: a queue of messages from each rank to each other one.
struct Clique {
  explicit Clique(int n) : Clique{n, n} {}
  Clique(int n, int most) : size{n}, capacity{most}, queues(static_cast<std::size_t>(most * most)) {}

  std::deque<std::vector<std::byte>>& queue(int from, int to) {
    return queues[static_cast<std::size_t>(from * capacity + to)];
  }

  int size;
  int capacity;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::deque<std::vector<std::byte>>> queues;
};

/// A split of a communicator's ranks, which ends when all have come.
struct Split {
  explicit Split(int ranks) : expected{ranks} {}

  bool is_over() const { return arrived == expected; }

  int expected;
  std::atomic<int> arrived = 0;
  std::map<int, std::shared_ptr<Clique>> groups;  // by color
};

/// One rank's communicator. A group is enqueued when the state has been asked for often enough.
struct Communicator {
  std::shared_ptr<Clique> clique;
  Rank rank;
  std::atomic<bool> aborted = false;
  NcclResult error = NcclResult::success;  // guarded by the clique's mutex, as all below
  bool is_waiting = false;                 // for a message
  int polls = 0;
  std::shared_ptr<Split> split;  // that it takes part in or comes from
  std::vector<std::function<void()>> launches;
  std::map<void*, std::size_t> registered;
};

/// What the test sees and sets; one for all ranks.
struct World {
  std::atomic<int> device_allocations = 0;
  std::atomic<int> pinned_allocations = 0;
  std::atomic<int> events = 0;
  std::atomic<int> communicators = 0;
  std::atomic<int> aborts = 0;
  std::atomic<int> registrations = 0;
  std::atomic<int> groups = 0;
  std::atomic<int> failing_group = -1;  ///< The number of the group, over all ranks, whose end fails.
  int polls = 2;                        ///< How often a call is in progress; 0: it is not.

  std::mutex mutex;
  std::map<std::uint64_t, std::shared_ptr<Clique>> cliques;          // by unique id
  std::map<std::pair<Clique*, int>, std::shared_ptr<Split>> splits;  // by parent and the number of the split
  std::map<Communicator*, int> split_counts;
  std::uint64_t ids = 0;
  std::vector<std::unique_ptr<Communicator>> all;  // work on a stream may outlive a communicator's end

  /// Whether a rank has ended or aborted any of its communicators.
  bool has_ended(Rank rank) {
    const std::scoped_lock lock{mutex};
    return std::ranges::any_of(all, [&](const auto& one) { return one->rank == rank && one->aborted; });
  }

  /// Makes NCCL report an error on a rank where it waits for another one; false if it does so nowhere.
  bool set_error_where_waiting(Rank rank, NcclResult error) {
    const std::scoped_lock lock{mutex};
    for (const auto& communicator : all) {
      const std::scoped_lock each{communicator->clique->mutex};
      if (communicator->rank != rank || !communicator->is_waiting) continue;
      communicator->error = error;
      return true;
    }
    return false;
  }

  /// Makes NCCL report an error on a rank.
  void set_error(Rank rank, NcclResult error) {
    const std::scoped_lock lock{mutex};
    for (const auto& communicator : all) {
      if (communicator->rank != rank) continue;
      const std::scoped_lock each{communicator->clique->mutex};
      communicator->error = error;
    }
  }
};

/// What goes from rank to rank in a group.
struct Transfer {
  int peer;
  std::byte* data;
  std::size_t bytes;
};

struct Operation {
  std::vector<Transfer> sends;
  std::vector<Transfer> receives;
  std::function<void(Operation&)> after;
  std::vector<std::vector<std::byte>> space;  // of what was received from each rank, for sums
};

struct Call {
  Communicator* communicator;
  zerospan::StreamRef stream;
  Operation operation;
};

/// On the stream's thread: all messages are sent, and then received.
inline void execute(Communicator& communicator, std::vector<Call>& calls) {
  Clique& clique = *communicator.clique;
  const int me = communicator.rank.value;
  std::unique_lock lock{clique.mutex};
  for (const Call& call : calls) {
    for (const Transfer& send : call.operation.sends) {
      clique.queue(me, send.peer).emplace_back(send.data, send.data + send.bytes);
    }
  }
  clique.changed.notify_all();
  for (Call& call : calls) {
    for (const Transfer& receive : call.operation.receives) {
      auto& queue = clique.queue(receive.peer, me);
      communicator.is_waiting = true;
      clique.changed.wait(
          lock, [&] { return communicator.aborted || (!queue.empty() && queue.front().size() == receive.bytes); });
      communicator.is_waiting = false;
      if (communicator.aborted) return;
      std::ranges::copy(queue.front(), receive.data);
      queue.pop_front();
    }
    if (call.operation.after) call.operation.after(call.operation);
  }
}

}  // namespace fake
