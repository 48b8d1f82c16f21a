/// @file
/// MpiContext: what the communicators share that come from one MpiCommunicator: their link, their tags, their failure,
/// and their end.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_link.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/protocol/rank_context.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The tag of announcements of failures, for all communicators of a context.
inline constexpr int mpi_announcement_tag = 0;

/// The tags of one channel: of headers, and of what moves within a collective, operands and then results.
struct MpiTags {
  int calls;
  int operands;
  int results;

  /// @throws ConfigurationError for more channels than MPI has tags for.
  static MpiTags of_channel(std::uint64_t channel, int largest_tag) {
    const std::uint64_t channels = static_cast<std::uint64_t>(largest_tag) / 3;
    if (channel >= channels) {
      throw_configuration_error("this MPI has tags for " + std::to_string(channels) +
                                " duplicates and groups of an MpiCommunicator, each rank of it an equal share");
    }
    const int first = mpi_announcement_tag + 1 + static_cast<int>(3 * channel);
    return {first, first + 1, first + 2};
  }
};

/// How many collectives of a channel have begun: all ranks have called them.
struct MpiBegun {
  std::uint64_t channel;
  std::uint64_t collectives;
};

/// Which collectives had begun on some rank when it failed. Only these still complete on the others: a rank that has
/// the headers of all others knows that all others get them too. Guarded by the context's mutex, but for the counters.
class MpiProgress {
 public:
  using Counter = std::atomic<std::uint64_t>;

  /// The count of a channel of this rank, which its communicator keeps. It is checked at after the communicator's end
  /// too, until the channel is forgotten.
  std::shared_ptr<Counter> open(std::uint64_t channel) {
    return counters_.emplace(channel, std::make_shared<Counter>(0)).first->second;
  }

  /// No rank waits in a collective of the channel any more.
  void forget(std::uint64_t channel) { counters_.erase(channel); }

  /// This rank's counts, of the latest channels.
  std::vector<MpiBegun> latest(std::size_t channels) const {
    std::vector<MpiBegun> counts;
    for (auto each = counters_.rbegin(); each != counters_.rend() && counts.size() < channels; ++each) {
      counts.push_back({each->first, each->second->load()});
    }
    return counts;
  }

  /// Takes in the counts that a failed rank announced.
  void learn(std::span<const MpiBegun> counts) {
    for (const auto [channel, collectives] : counts) {
      std::uint64_t& known = at_failure_[channel];
      known = std::max(known, collectives);
    }
  }

  /// The largest announced count of each channel.
  std::vector<MpiBegun> known() const {
    std::vector<MpiBegun> counts;
    for (const auto& [channel, collectives] : at_failure_) counts.push_back({channel, collectives});
    return counts;
  }

  bool had_begun(std::uint64_t channel, std::uint64_t number) const {
    const auto known = at_failure_.find(channel);
    return known != at_failure_.end() && known->second > number;
  }

 private:
  std::map<std::uint64_t, std::shared_ptr<Counter>> counters_;
  std::map<std::uint64_t, std::uint64_t> at_failure_;
};

/// A failure, and how far the rank that tells of it had come. It is short enough for MPI to send at once: of many
/// channels it has the latest, of a long text the beginning.
struct MpiAnnouncement {
  static constexpr std::size_t most_channels = 64;

  Failure failure;
  std::vector<MpiBegun> begun;
};

inline std::vector<std::byte> to_bytes(const MpiAnnouncement& said) {
  std::vector<std::byte> bytes;
  append(bytes, said.failure);
  const auto begun = std::as_bytes(std::span{said.begun});
  bytes.insert(bytes.end(), begun.begin(), begun.end());
  return bytes;
}

inline MpiAnnouncement announcement_of(std::span<const std::byte> bytes) {
  MpiAnnouncement said{take_failure(bytes), {}};
  said.begun.resize(bytes.size() / sizeof(MpiBegun));
  if (!said.begun.empty()) std::memcpy(said.begun.data(), bytes.data(), bytes.size());
  return said;
}

/// What an MpiCommunicator and all that is made of it share on one rank. The first failure that the rank finds or is
/// told of is kept; one that it finds itself it announces to all others. If none fails, each channel ends with a
/// goodbye from every rank to every other, after which no message of it is under way.
class MpiContext {
 public:
  MpiContext(MPI_Comm host, const MpiOptions& options)
      : link_{host, options}, all_{std::make_shared<MpiGroup>(link_)}, kept_{link_.size()} {}
  MpiContext(const MpiContext&) = delete;
  MpiContext& operator=(const MpiContext&) = delete;
  ~MpiContext() {
    if (MpiLink::is_finalized()) return;
    if (announcement_) announcement_->abandon();
    const bool all_left = !has_failed() && await_goodbyes();
    for (Closing& each : closing_) each.slots.abandon();
    if (all_left) link_.free();
  }

  MpiLink& link() noexcept { return link_; }
  const MpiOptions& options() const noexcept { return link_.options(); }
  Rank rank() const noexcept { return Rank{link_.rank()}; }
  int size() const noexcept { return link_.size(); }
  const std::shared_ptr<const MpiGroup>& all() const noexcept { return all_; }

  bool has_failed() const noexcept { return has_failed_.load(); }

  /// @return The failure kept, which never changes. There is one.
  const Failure& failure() const {
    const std::scoped_lock lock{kept_.mutex};
    return *kept_.failure;
  }

  /// Whether a collective does not take place, because of a failure that came before all ranks had called it.
  bool prevents(std::uint64_t channel, std::uint64_t number) const {
    if (!has_failed()) return false;
    const std::scoped_lock lock{kept_.mutex};
    return !progress_.had_begun(channel, number);
  }

  /// Keeps the failure and tells the others, unless one is kept already. @return The one kept.
  const Failure& fail(Failure first) {
    if (keep(std::move(first))) announce();
    return failure();
  }

  void abort(const std::string& reason) noexcept {
    if (link_.is_copy()) return;
    try {
      fail({Failure::Kind::rank_failed, rank(), describe(rank()) + " failed (" + reason + ")"});
    } catch (...) {  // no memory for the reason, or MPI does not send it: what this rank does next fails
      kept_.abort(rank(), {});
      has_failed_.store(true);
    }
  }

  /// Looks whether another rank has announced a failure.
  void listen();

  /// A number for a new channel that no communicator of the context has, and that no other rank offers.
  std::uint64_t offer_channel() noexcept {
    const std::uint64_t round = next_round_.fetch_add(1, std::memory_order_relaxed);
    return round * static_cast<std::uint64_t>(size()) + static_cast<std::uint64_t>(link_.rank());
  }

  /// Counts the collectives of a channel that have begun. What this rank offers later has a larger number.
  std::shared_ptr<MpiProgress::Counter> open(std::uint64_t channel) {
    const std::scoped_lock lock{kept_.mutex};
    const std::uint64_t round = channel / static_cast<std::uint64_t>(size()) + 1;
    for (std::uint64_t next = next_round_.load(std::memory_order_relaxed);
         next < round && !next_round_.compare_exchange_weak(next, round, std::memory_order_relaxed);) {
    }
    return progress_.open(channel);
  }

  /// Takes over goodbyes that are under way, and forgets the channels that every rank has left by now.
  void close(std::uint64_t channel, MpiSlots slots) {
    const std::scoped_lock lock{closing_mutex_};
    closing_.push_back({channel, std::move(slots)});
    collect_goodbyes();
  }

 private:
  /// A channel that this rank has left.
  struct Closing {
    std::uint64_t channel;
    MpiSlots slots;
  };

  bool keep(Failure failure) {
    const std::scoped_lock lock{kept_.mutex};
    if (kept_.failure) return false;
    has_failed_.store(true);  // before the counts are read: a collective that begins later sees the failure
    kept_.fail(std::move(failure));
    progress_.learn(progress_.latest(MpiAnnouncement::most_channels));
    return true;
  }
  void announce();
  int collect_goodbyes();
  bool await_goodbyes() noexcept;

  MpiLink link_;
  std::shared_ptr<const MpiGroup> all_;
  mutable RankContext kept_;
  MpiProgress progress_;
  std::atomic<bool> has_failed_ = false;
  std::atomic<std::uint64_t> next_round_ = 1;  // the next number to offer is next_round_ * ranks + rank
  std::unique_ptr<MpiSlots> announcement_;
  std::mutex closing_mutex_;
  std::list<Closing> closing_;    // guarded by that mutex
  bool has_been_missed_ = false;  // a rank called a collective of a channel that this one had left
};

inline void MpiContext::announce() {
  std::vector<std::byte> bytes;
  {
    const std::scoped_lock lock{kept_.mutex};
    bytes = to_bytes({*kept_.failure, progress_.known()});
  }
  announcement_ = std::make_unique<MpiSlots>(all_, bytes.size());
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == link_.rank()) continue;
    std::ranges::copy(bytes, announcement_->to(peer));
    announcement_->send(peer, mpi_announcement_tag, bytes.size());
  }
  announcement_->messages().poll();
}

inline void MpiContext::listen() {
  std::vector<std::byte> bytes;
  int is_there = 0;
  link_.ask("MPI_Improbe", [&] {
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    const int code = MPI_Improbe(MPI_ANY_SOURCE, mpi_announcement_tag, link_.handle(), &is_there, &message, &status);
    if (code != MPI_SUCCESS || is_there == 0) return code;
    int count = 0;
    MPI_Get_count(&status, MPI_BYTE, &count);
    bytes.resize(static_cast<std::size_t>(count));
    return MPI_Mrecv(bytes.data(), count, MPI_BYTE, &message, MPI_STATUS_IGNORE);
  });
  if (is_there == 0) return;
  MpiAnnouncement heard = announcement_of(bytes);
  const std::scoped_lock lock{kept_.mutex};
  progress_.learn(heard.begun);
  if (kept_.failure) return;
  kept_.fail(std::move(heard.failure));
  has_failed_.store(true);
}

/// The caller holds `closing_mutex_`. @return How many messages have ended.
inline int MpiContext::collect_goodbyes() {
  int ended = 0;
  closing_.remove_if([&](Closing& each) {
    ended += each.slots.messages().poll([&](int peer) {
      if (each.slots.header_from(peer).news != MpiCallHeader::News::goodbye) has_been_missed_ = true;
    });
    if (!each.slots.messages().is_done()) return false;
    const std::scoped_lock lock{kept_.mutex};
    progress_.forget(each.channel);
    return true;
  });
  return ended;
}

/// Waits briefly for the others to end too. @return Whether all have, so that nothing more will be said.
inline bool MpiContext::await_goodbyes() noexcept {
  constexpr std::chrono::milliseconds longest{1000};
  const auto deadline = moment_after(std::min(longest, options().timeout));
  try {
    PollPacing pacing{MpiAwaited::ranks};
    for (;;) {
      const int ended = collect_goodbyes();
      if (has_been_missed_ || PollPacing::Clock::now() > deadline) return false;
      if (closing_.empty()) return true;
      if (ended == 0) pacing.pause();
    }
  } catch (...) {
    return false;
  }
}

}  // namespace zerospan::inline v0::detail
