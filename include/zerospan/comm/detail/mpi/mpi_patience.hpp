/// @file
/// How a thread waits for MPI, which it has to ask again and again.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// What a thread waits for: other ranks, which may take long, or messages on their way, which MPI may move only while
/// it is asked about them.
enum class MpiAwaited : std::uint8_t { ranks, messages };

/// Spins at first, for as long as what is awaited usually takes if nobody else needs this core; then yields to the
/// threads that compute; sleeps, a sixteenth of the time waited, when ranks take long.
class MpiPatience {
 public:
  using Clock = std::chrono::steady_clock;

  explicit MpiPatience(MpiAwaited awaited) noexcept : awaited_{awaited} {}

  /// Something happened.
  void renew() noexcept {
    polls_ = 0;
    waited_ = {};
  }

  /// Whether to look, after a poll that found nothing, at what is seldom there, and at the clock.
  bool looks_around() const noexcept { return polls_ % 16 == 15 || waited_ > yield; }

  /// Between two polls that found nothing.
  void pause() {
    if (++polls_ < 16) return;
    const Clock::time_point now = Clock::now();
    if (polls_ == 16) began_ = now;
    waited_ = now - began_;
    if (waited_ < (awaited_ == MpiAwaited::ranks ? spin_for_ranks : spin_for_messages)) return;
    if (waited_ < yield || awaited_ == MpiAwaited::messages) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(waited_ / 16, longest_sleep));
    }
  }

 private:
  static constexpr std::chrono::microseconds spin_for_ranks{10};
  static constexpr std::chrono::microseconds spin_for_messages{100};
  static constexpr std::chrono::milliseconds yield{1};
  static constexpr std::chrono::microseconds longest_sleep{200};

  MpiAwaited awaited_;
  std::uint64_t polls_ = 0;
  Clock::time_point began_;
  Clock::duration waited_{};
};

/// @return The moment at which so much time will have passed, if that is less than a year.
inline MpiPatience::Clock::time_point moment_after(std::chrono::milliseconds time) {
  return MpiPatience::Clock::now() + std::min<std::chrono::milliseconds>(time, std::chrono::years{1});
}

}  // namespace zerospan::inline v0::detail
