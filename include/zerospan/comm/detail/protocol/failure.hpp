/// @file
/// Failure: why the communicators of some ranks are of no use any more, in words and in bytes.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// "rank 2"
inline std::string describe(Rank rank) { return std::string{"rank "}.append(std::to_string(rank.value)); }

/// Why a communicator, and all that shares its context, is of no use any more.
struct Failure {
  enum class Kind : std::uint8_t { rank_failed, timeout, divergence };

  Kind kind;
  Rank culprit;
  std::string text;
};

/// @param context Where the throwing rank stood, appended to the failure's own text.
[[noreturn]] inline void throw_failure(const Failure& failure, const std::string& context,
                                       std::source_location where = std::source_location::current()) {
  const std::string message = failure.text + context;
  switch (failure.kind) {
    case Failure::Kind::timeout:
      throw RankTimeoutError{message, failure.culprit, where};
    case Failure::Kind::divergence:
      throw DivergenceError{message, failure.culprit, where};
    case Failure::Kind::rank_failed:
      break;
  }
  throw RankFailedError{message, failure.culprit, where};
}

/// A rank that calls nothing more, while others wait for it.
inline Failure has_returned(Rank rank) { return {Failure::Kind::rank_failed, rank, describe(rank) + " returned"}; }

/// Ranks that stay away past the deadline.
/// @param missing In rank order; at least one.
/// @param call Described.
inline Failure not_arrived(std::span<const Rank> missing, const std::string& call, std::chrono::milliseconds timeout) {
  std::string names = missing.size() == 1 ? "rank" : "ranks";
  for (const Rank rank : missing) {
    names.append(rank == missing.front() ? " " : ", ").append(std::to_string(rank.value));
  }
  return {Failure::Kind::timeout, missing.front(),
          names + " did not arrive at " + call + " within " + std::to_string(timeout.count()) + " ms,"};
}

/// "rank 0: barrier 'a' (#1); rank 1: barrier 'b' (#1)".
/// @param names What messages call the ranks. @param calls Described; one of no words is not known.
inline std::string list_calls(std::span<const Rank> names, std::span<const std::string> calls) {
  std::string text;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    text.append(i == 0 ? "" : "; ").append(describe(names[i]));
    text.append(calls[i].empty() ? std::string{" does not say"} : ": " + calls[i]);
  }
  return text;
}

/// Ranks that called what does not go together.
/// @param culprit Its place among the names.
inline Failure divergence(std::span<const Rank> names, std::span<const std::string> calls, std::size_t culprit) {
  return {Failure::Kind::divergence, names[culprit], "ranks diverge: " + list_calls(names, calls)};
}

/// Which of some ranks is at fault if their calls do not go together: the lowest that does not agree with the majority,
/// or with the first that is known if there is no majority.
/// @param is_known `is_known(a)`: whether it is known what that rank called.
/// @param agree `agree(a, b)`: whether what these two called, which is known, goes together.
template <class IsKnown, class Agree>
std::optional<std::size_t> find_culprit(std::size_t ranks, IsKnown is_known, Agree agree) {
  std::vector<std::size_t> known;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    if (is_known(rank)) known.push_back(rank);
  }
  if (known.empty()) return std::nullopt;
  const auto has_majority = [&](std::size_t a) {
    const auto supporters = std::ranges::count_if(known, [&](std::size_t b) { return agree(a, b); });
    return 2 * static_cast<std::size_t>(supporters) > known.size();
  };
  const auto majority = std::ranges::find_if(known, has_majority);
  const std::size_t expected = majority == known.end() ? known.front() : *majority;
  const auto culprit = std::ranges::find_if(known, [&](std::size_t a) { return !agree(a, expected); });
  return culprit == known.end() ? std::nullopt : std::optional{*culprit};
}

/// Where a rank stands that throws the failure.
/// @param call What it waits in, described.
/// @return Nothing for a divergence, which lists what every rank called.
inline std::string standing(const Failure& failure, Rank rank, const std::string& call) {
  if (failure.kind == Failure::Kind::divergence) return {};
  return " while " + describe(rank) + " waits in " + call;
}

/// What a failure begins with when it is sent; its text follows. Ranks are on machines of one byte order.
struct FailureHead {
  static constexpr std::size_t longest_text = 2048;

  std::int32_t kind;
  std::int32_t culprit;
  std::uint64_t text_bytes;
};

/// Appends the failure as it is sent; of a text that is too long, the beginning.
inline void append(std::vector<std::byte>& bytes, const Failure& failure) {
  const FailureHead head{static_cast<std::int32_t>(failure.kind), failure.culprit.value,
                         std::min(failure.text.size(), FailureHead::longest_text)};
  const std::size_t before = bytes.size();
  bytes.resize(before + sizeof head + head.text_bytes);
  std::memcpy(bytes.data() + before, &head, sizeof head);
  std::memcpy(bytes.data() + before + sizeof head, failure.text.data(), head.text_bytes);
}

/// Takes a failure off the front of what was received.
inline Failure take_failure(std::span<const std::byte>& bytes) {
  FailureHead head{};
  std::memcpy(&head, bytes.data(), sizeof head);
  const auto text = bytes.subspan(sizeof head, head.text_bytes);
  bytes = bytes.subspan(sizeof head + head.text_bytes);
  return {static_cast<Failure::Kind>(head.kind), Rank{head.culprit},
          std::string(reinterpret_cast<const char*>(text.data()), text.size())};
}

/// The process that a communicator was made in. A fork copies its memory, but no thread that it waits for, and perhaps
/// a mutex that is locked for ever.
class HomeProcess {
 public:
  bool was_left() const noexcept { return ::getpid() != id_; }

  /// @throws RankFailedError in a process that was forked from this one.
  void require(Rank rank) const {
    if (!was_left()) return;
    throw RankFailedError{"rank " + std::to_string(rank.value) +
                              " uses a communicator after a fork: it stays with the process that made it",
                          rank, std::source_location::current()};
  }

 private:
  ::pid_t id_ = ::getpid();
};

}  // namespace zerospan::inline v0::detail
