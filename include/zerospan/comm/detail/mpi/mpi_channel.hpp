/// @file
/// MpiChannel: where the processes of one MpiCommunicator meet.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_context.hpp>
#include <zerospan/comm/detail/mpi/mpi_link.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The rendezvous of a group of processes. To begin a collective, each rank sends every other a header that says which
/// one it calls, and waits for theirs. A few bytes of operands travel with the header; more move in messages
/// afterwards, when all ranks are known to expect them. Ranks are numbered as in the group; errors name them as in the
/// context.
class MpiChannel {
 public:
  /// What the call of a collective can carry to each rank.
  static constexpr std::size_t longest_payload = 1024;

  /// @param channel Its tags are its own among the context's channels, on every rank.
  /// @throws ConfigurationError for more channels than MPI has tags for.
  MpiChannel(std::shared_ptr<MpiContext> context, std::shared_ptr<const MpiGroup> group, std::uint64_t channel)
      : context_{std::move(context)},
        group_{std::move(group)},
        channel_{channel},
        tags_{MpiTags::of_channel(channel, context_->link().largest_tag())},
        begun_{context_->open(channel)},
        slots_{group_, slot_bytes},
        transfer_{group_} {}
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;
  ~MpiChannel() { leave(); }

  MpiLink& link() const noexcept { return context_->link(); }
  const std::shared_ptr<const MpiGroup>& group() const noexcept { return group_; }
  Rank rank() const noexcept { return Rank{group_->rank()}; }
  int size() const noexcept { return group_->size(); }

  const MpiTags& tags() const noexcept { return tags_; }

  /// Sends the header of this rank's call, and waits for the headers of the others.
  /// @param pack `pack(peer, to)` writes at most `longest_payload` bytes for a peer, and returns how many.
  /// @throws RankFailedError, RankTimeoutError, DivergenceError
  template <class Pack>
  void begin(const CollectiveCall& call, Pack pack, std::uint64_t offer = 0);

  /// The `pack` of a call that carries nothing.
  static std::size_t nothing(int, std::byte*) noexcept { return 0; }

  /// What a peer's call carried, until the next collective. It is not aligned.
  const std::byte* payload(int peer) const noexcept { return slots_.from(peer) + sizeof(MpiCallHeader); }
  std::uint64_t offer_of(Rank rank) const noexcept { return slots_.header_from(rank.value).offer; }

  /// Messages for one collective at a time: none is under way between collectives.
  MpiMessages& transfer() noexcept { return transfer_; }

  /// Waits until the messages of the collective that has begun are done.
  /// @throws RankTimeoutError if none ends for as long as the timeout, RankFailedError if a rank has failed meanwhile
  ///   and they do not end soon. The memory of messages that have not ended is MPI's as long as the process lives.
  void finish(MpiMessages& messages);

  /// From here on, descriptions number collectives from 0.
  void count_from_here() noexcept { first_shown_ = *begun_; }

  /// See MpiGroup::for_each_distance.
  template <class Act>
  void for_each_distance(Act act) const {
    group_->for_each_distance(act);
  }

 private:
  static constexpr std::size_t slot_bytes = round_up(sizeof(MpiCallHeader) + longest_payload, 64);

  Rank in_context(int peer) const noexcept { return Rank{group_->in_link(peer)}; }
  std::string described() const;
  void meet();
  bool all_agree() const noexcept;
  Failure find_missing() const;
  Failure find_divergence();
  std::vector<std::string> exchange_descriptions();
  Failure find_stalled(const MpiMessages& messages) const;
  [[noreturn]] void give_up(const Failure& failure);
  void leave() noexcept;

  std::shared_ptr<MpiContext> context_;
  std::shared_ptr<const MpiGroup> group_;
  std::uint64_t channel_;
  MpiTags tags_;
  std::shared_ptr<MpiProgress::Counter> begun_;
  MpiSlots slots_;
  MpiMessages transfer_;
  CollectiveCall call_;       // the latest
  std::uint64_t number_ = 0;  // of those begun before it
  std::uint64_t first_shown_ = 0;
  int exceptions_ = std::uncaught_exceptions();  // under way when this was made
};

inline std::string MpiChannel::described() const {
  CollectiveCall call = call_;
  call.root = in_context(call.root.value);
  return describe(call, number_ - first_shown_);
}

template <class Pack>
void MpiChannel::begin(const CollectiveCall& call, Pack pack, std::uint64_t offer) {
  call_ = call;
  number_ = *begun_;
  if (context_->has_failed()) {
    throw_failure(context_->failure(), " before " + describe(context_->rank()) + " called " + described());
  }
  const MpiCallHeader header{.fingerprint = fingerprint(call), .offer = offer};
  std::memcpy(slots_.from(rank().value), &header, sizeof header);
  for_each_distance([&](int to, int from) {
    slots_.receive(from, tags_.calls);
    std::memcpy(slots_.to(to), &header, sizeof header);
    slots_.send(to, tags_.calls, sizeof header + pack(to, slots_.to(to) + sizeof header));
  });
  meet();
}

inline void MpiChannel::meet() {
  const auto deadline = moment_after(context_->options().timeout);
  PollPacing pacing{MpiAwaited::ranks};
  while (!slots_.messages().is_done()) {
    std::optional<Rank> gone;
    const int ended = slots_.messages().poll([&](int peer) {
      if (slots_.header_from(peer).news == MpiCallHeader::News::goodbye) gone = in_context(peer);
    });
    if (gone) give_up(context_->fail(has_returned(*gone)));
    if (ended > 0) continue;
    if (pacing.is_time_for_rare_checks()) {
      context_->listen();
      if (PollPacing::Clock::now() > deadline) give_up(context_->fail(find_missing()));
    }
    if (context_->prevents(channel_, number_)) give_up(context_->failure());
    pacing.pause();
  }
  if (!all_agree()) give_up(context_->fail(find_divergence()));
  // A failure that another rank announced before it sent its header has arrived by now.
  if (size() > 1) context_->listen();
  ++*begun_;  // before the check below: if this rank fails in between, its announcement counts this collective
  if (context_->prevents(channel_, number_)) give_up(context_->failure());
}

inline void MpiChannel::give_up(const Failure& failure) {
  slots_.abandon();
  throw_failure(failure, standing(failure, context_->rank(), described()));
}

inline Failure MpiChannel::find_missing() const {
  std::vector<Rank> missing;
  for (const int peer : slots_.messages().awaited_peers()) missing.push_back(in_context(peer));
  std::ranges::sort(missing, {}, &Rank::value);
  return not_arrived(missing, described(), context_->options().timeout);
}

inline bool MpiChannel::all_agree() const noexcept {
  const std::uint64_t own = slots_.header_from(rank().value).fingerprint;
  for (int peer = 0; peer < size(); ++peer) {
    if (slots_.header_from(peer).fingerprint != own) return false;
  }
  return true;
}

inline Failure MpiChannel::find_divergence() {
  std::vector<Rank> names;
  std::vector<std::uint64_t> fingerprints;
  for (int peer = 0; peer < size(); ++peer) {
    names.push_back(in_context(peer));
    fingerprints.push_back(slots_.header_from(peer).fingerprint);
  }
  const auto culprit = find_culprit(
      names.size(), [](std::size_t) { return true; },
      [&](std::size_t a, std::size_t b) { return fingerprints[a] == fingerprints[b]; });
  return divergence(names, exchange_descriptions(), culprit.value());
}

/// What each rank calls, as it describes it itself. Every rank has seen that they diverge, and takes part.
inline std::vector<std::string> MpiChannel::exchange_descriptions() {
  const std::string own = described().substr(0, slot_bytes - 1);
  std::memcpy(slots_.from(rank().value), own.c_str(), own.size() + 1);
  for_each_distance([&](int to, int from) {
    slots_.from(from)[0] = {};  // an empty text, unless the peer sends one
    slots_.receive(from, tags_.calls);
    std::memcpy(slots_.to(to), own.c_str(), own.size() + 1);
    slots_.send(to, tags_.calls, own.size() + 1);
  });
  const auto deadline = moment_after(context_->options().timeout);
  PollPacing pacing{MpiAwaited::ranks};
  while (!slots_.messages().is_done() && !context_->has_failed() && PollPacing::Clock::now() < deadline) {
    if (slots_.messages().poll() > 0) continue;
    if (pacing.is_time_for_rare_checks()) context_->listen();  // a rank that has failed sends no description
    pacing.pause();
  }
  std::vector<std::string> descriptions;
  for (int peer = 0; peer < size(); ++peer) {
    descriptions.emplace_back(reinterpret_cast<const char*>(slots_.from(peer)));
  }
  return descriptions;
}

inline void MpiChannel::finish(MpiMessages& messages) {
  constexpr std::chrono::milliseconds after_failure{1000};  // all ranks have begun, and most likely finish
  std::chrono::milliseconds timeout = context_->options().timeout;
  auto deadline = moment_after(timeout);
  PollPacing pacing{MpiAwaited::messages};
  while (!messages.is_done()) {
    if (messages.poll() > 0) {
      deadline = moment_after(timeout);
      pacing.restart();
      continue;
    }
    if (pacing.is_time_for_rare_checks()) {
      context_->listen();
      if (context_->has_failed() && timeout > after_failure) {
        timeout = after_failure;
        deadline = moment_after(timeout);
      }
      if (PollPacing::Clock::now() > deadline) {
        const Failure& failure = context_->fail(find_stalled(messages));
        messages.abandon();
        throw_failure(failure, standing(failure, context_->rank(), described()));
      }
    }
    pacing.pause();
  }
}

inline Failure MpiChannel::find_stalled(const MpiMessages& messages) const {
  const Rank peer = in_context(messages.awaited_peers().front());
  return {Failure::Kind::timeout, peer,
          describe(peer) + " did not go on with " + described() + " for " +
              std::to_string(context_->options().timeout.count()) + " ms,"};
}

/// Sends a goodbye to every peer, and leaves it to the context to receive theirs.
inline void MpiChannel::leave() noexcept {
  if (MpiLink::is_finalized() || context_->has_failed()) return;
  if (std::uncaught_exceptions() > exceptions_)
    return context_->abort("its communicator was destroyed by an exception");
  try {
    const MpiCallHeader goodbye{.news = MpiCallHeader::News::goodbye};
    for_each_distance([&](int to, int from) {
      slots_.receive(from, tags_.calls);
      std::memcpy(slots_.to(to), &goodbye, sizeof goodbye);
      slots_.send(to, tags_.calls, sizeof goodbye);
    });
    context_->close(channel_, std::move(slots_));
  } catch (...) {  // MPI failed: the others notice at their deadline
    slots_.abandon();
  }
}

}  // namespace zerospan::inline v0::detail
