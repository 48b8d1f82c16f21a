/// @file
/// Where the processes of one MpiCommunicator meet.
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

#include <zerospan/comm/detail/mpi/mpi_family.hpp>
#include <zerospan/comm/detail/mpi/mpi_link.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The rendezvous of a group of processes: each tells every other which collective it calls, and waits for what they
/// say. Few bytes travel with it; more move in messages afterwards, when all ranks are known to expect them. Ranks are
/// the group's, but errors name the family's.
class MpiChannel {
 public:
  /// What the call of a collective can carry to each rank.
  static constexpr std::size_t longest_payload = 1024;

  /// @param channel Its tags are its own among the family's channels, on every rank.
  /// @throws ConfigurationError for more channels than MPI has tags for.
  MpiChannel(std::shared_ptr<MpiFamily> family, std::shared_ptr<const MpiGroup> group, std::uint64_t channel)
      : family_{std::move(family)},
        group_{std::move(group)},
        channel_{channel},
        tags_{MpiTags::of_channel(channel, family_->link().largest_tag())},
        begun_{family_->open(channel)},
        mail_{group_, slot_bytes},
        transfer_{group_} {}
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;
  ~MpiChannel() { leave(); }

  MpiLink& link() const noexcept { return family_->link(); }
  const std::shared_ptr<const MpiGroup>& group() const noexcept { return group_; }
  Rank rank() const noexcept { return Rank{group_->rank()}; }
  int size() const noexcept { return group_->size(); }

  const MpiTags& tags() const noexcept { return tags_; }

  /// Says what this rank calls, and waits for the others' words.
  /// @param pack `pack(peer, to)` writes at most `longest_payload` bytes for a peer, and returns how many.
  /// @throws RankFailedError, RankTimeoutError, DivergenceError
  template <class Pack>
  void begin(const CollectiveCall& call, Pack pack, std::uint64_t offer = 0);

  /// The `pack` of a call that carries nothing.
  static std::size_t nothing(int, std::byte*) noexcept { return 0; }

  /// What a peer's call carried, until the next collective. It is not aligned.
  const std::byte* payload(int peer) const noexcept { return mail_.from(peer) + sizeof(MpiCallHeader); }
  std::uint64_t offer_of(Rank rank) const noexcept { return mail_.header_from(rank.value).offer; }

  /// Messages for one collective at a time: none is under way between collectives.
  MpiMessages& transfer() noexcept { return transfer_; }

  /// Waits until the messages of the collective that has begun are done.
  /// @throws RankTimeoutError if none ends for as long as the timeout, RankFailedError if a rank has failed meanwhile
  ///   and they do not end soon. The memory of messages that have not ended is MPI's as long as the process lives.
  void finish(MpiMessages& messages);

  /// Messages number collectives from here.
  void count_from_here() noexcept { first_shown_ = *begun_; }

  /// As the group's.
  template <class Act>
  void for_each_distance(Act act) const {
    group_->for_each_distance(act);
  }

 private:
  static constexpr std::size_t slot_bytes = round_up(sizeof(MpiCallHeader) + longest_payload, 64);

  Rank in_family(int peer) const noexcept { return Rank{group_->in_link(peer)}; }
  std::string described() const;
  void meet();
  bool all_agree() const noexcept;
  Failure find_missing() const;
  Failure find_divergence();
  std::vector<std::string> exchange_descriptions();
  Failure find_stalled(const MpiMessages& messages) const;
  [[noreturn]] void give_up(const Failure& failure);
  void leave() noexcept;

  std::shared_ptr<MpiFamily> family_;
  std::shared_ptr<const MpiGroup> group_;
  std::uint64_t channel_;
  MpiTags tags_;
  std::shared_ptr<MpiProgress::Counter> begun_;
  MpiMail mail_;
  MpiMessages transfer_;
  CollectiveCall call_;       // the latest
  std::uint64_t number_ = 0;  // of those begun before it
  std::uint64_t first_shown_ = 0;
  int exceptions_ = std::uncaught_exceptions();  // under way when this was made
};

inline std::string MpiChannel::described() const {
  CollectiveCall call = call_;
  call.root = in_family(call.root.value);
  return describe(call, number_ - first_shown_);
}

template <class Pack>
void MpiChannel::begin(const CollectiveCall& call, Pack pack, std::uint64_t offer) {
  call_ = call;
  number_ = *begun_;
  if (family_->has_failed()) {
    throw_failure(family_->failure(), " before " + describe(family_->rank()) + " called " + described());
  }
  const MpiCallHeader header{.fingerprint = fingerprint(call), .offer = offer};
  std::memcpy(mail_.from(rank().value), &header, sizeof header);
  for_each_distance([&](int to, int from) {
    mail_.receive(from, tags_.calls);
    std::memcpy(mail_.to(to), &header, sizeof header);
    mail_.send(to, tags_.calls, sizeof header + pack(to, mail_.to(to) + sizeof header));
  });
  meet();
}

inline void MpiChannel::meet() {
  const auto deadline = moment_after(family_->options().timeout);
  MpiPatience patience{MpiAwaited::ranks};
  while (!mail_.messages().is_done()) {
    std::optional<Rank> gone;
    const int ended = mail_.messages().poll([&](int peer) {
      if (mail_.header_from(peer).news == MpiCallHeader::News::goodbye) gone = in_family(peer);
    });
    if (gone) give_up(family_->fail(has_returned(*gone)));
    if (ended > 0) continue;
    if (patience.looks_around()) {
      family_->listen();
      if (MpiPatience::Clock::now() > deadline) give_up(family_->fail(find_missing()));
    }
    if (family_->prevents(channel_, number_)) give_up(family_->failure());
    patience.pause();
  }
  if (!all_agree()) give_up(family_->fail(find_divergence()));
  if (size() > 1) family_->listen();  // whoever was too late for the others has their words here by now
  ++*begun_;                          // before the last look: who fails now counts this one
  if (family_->prevents(channel_, number_)) give_up(family_->failure());
}

inline void MpiChannel::give_up(const Failure& failure) {
  mail_.abandon();
  throw_failure(failure, standing(failure, family_->rank(), described()));
}

inline Failure MpiChannel::find_missing() const {
  std::vector<Rank> missing;
  for (const int peer : mail_.messages().awaited_peers()) missing.push_back(in_family(peer));
  std::ranges::sort(missing, {}, &Rank::value);
  return not_arrived(missing, described(), family_->options().timeout);
}

inline bool MpiChannel::all_agree() const noexcept {
  const std::uint64_t own = mail_.header_from(rank().value).fingerprint;
  for (int peer = 0; peer < size(); ++peer) {
    if (mail_.header_from(peer).fingerprint != own) return false;
  }
  return true;
}

inline Failure MpiChannel::find_divergence() {
  std::vector<Rank> names;
  std::vector<std::uint64_t> fingerprints;
  for (int peer = 0; peer < size(); ++peer) {
    names.push_back(in_family(peer));
    fingerprints.push_back(mail_.header_from(peer).fingerprint);
  }
  const auto culprit = find_culprit(
      names.size(), [](std::size_t) { return true; },
      [&](std::size_t a, std::size_t b) { return fingerprints[a] == fingerprints[b]; });
  return divergence(names, exchange_descriptions(), culprit.value());
}

/// What each rank calls, in its own words; all ranks know by now that they diverge.
inline std::vector<std::string> MpiChannel::exchange_descriptions() {
  const std::string own = described().substr(0, slot_bytes - 1);
  std::memcpy(mail_.from(rank().value), own.c_str(), own.size() + 1);
  for_each_distance([&](int to, int from) {
    mail_.from(from)[0] = {};  // no words yet
    mail_.receive(from, tags_.calls);
    std::memcpy(mail_.to(to), own.c_str(), own.size() + 1);
    mail_.send(to, tags_.calls, own.size() + 1);
  });
  const auto deadline = moment_after(family_->options().timeout);
  MpiPatience patience{MpiAwaited::ranks};
  while (!mail_.messages().is_done() && !family_->has_failed() && MpiPatience::Clock::now() < deadline) {
    if (mail_.messages().poll() > 0) continue;
    if (patience.looks_around()) family_->listen();  // a rank that fails otherwise at this moment says nothing here
    patience.pause();
  }
  std::vector<std::string> descriptions;
  for (int peer = 0; peer < size(); ++peer) {
    descriptions.emplace_back(reinterpret_cast<const char*>(mail_.from(peer)));
  }
  return descriptions;
}

inline void MpiChannel::finish(MpiMessages& messages) {
  constexpr std::chrono::milliseconds after_failure{1000};  // all ranks have met, and most likely end what they began
  std::chrono::milliseconds timeout = family_->options().timeout;
  auto deadline = moment_after(timeout);
  MpiPatience patience{MpiAwaited::messages};
  while (!messages.is_done()) {
    if (messages.poll() > 0) {
      deadline = moment_after(timeout);
      patience.renew();
      continue;
    }
    if (patience.looks_around()) {
      family_->listen();
      if (family_->has_failed() && timeout > after_failure) {
        timeout = after_failure;
        deadline = moment_after(timeout);
      }
      if (MpiPatience::Clock::now() > deadline) {
        const Failure& failure = family_->fail(find_stalled(messages));
        messages.abandon();
        throw_failure(failure, standing(failure, family_->rank(), described()));
      }
    }
    patience.pause();
  }
}

inline Failure MpiChannel::find_stalled(const MpiMessages& messages) const {
  const Rank peer = in_family(messages.awaited_peers().front());
  return {Failure::Kind::timeout, peer,
          describe(peer) + " did not go on with " + described() + " for " +
              std::to_string(family_->options().timeout.count()) + " ms,"};
}

/// Says goodbye, and leaves the others' to the family.
inline void MpiChannel::leave() noexcept {
  if (MpiLink::is_finalized() || family_->has_failed()) return;
  if (std::uncaught_exceptions() > exceptions_) return family_->abort("its communicator was destroyed by an exception");
  try {
    const MpiCallHeader goodbye{.news = MpiCallHeader::News::goodbye};
    for_each_distance([&](int to, int from) {
      mail_.receive(from, tags_.calls);
      std::memcpy(mail_.to(to), &goodbye, sizeof goodbye);
      mail_.send(to, tags_.calls, sizeof goodbye);
    });
    family_->close(channel_, std::move(mail_));
  } catch (...) {  // the others wait until their deadline
    mail_.abandon();
  }
}

}  // namespace zerospan::inline v0::detail
