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

/// Spins at first; soon yields to the threads that compute; sleeps, a sixteenth of the time waited, when ranks take
/// long.
class MpiPatience {
 public:
  using Clock = std::chrono::steady_clock;

  explicit MpiPatience(MpiAwaited awaited) noexcept : awaited_{awaited} {}

  /// Something happened.
  void renew() noexcept { polls_ = 0; }

  /// Between two polls that found nothing.
  void pause() {
    constexpr std::uint64_t spins = 32;
    constexpr std::uint64_t yields = 1000;
    if (++polls_ <= spins) return;
    if (polls_ <= yields || awaited_ == MpiAwaited::messages) {
      std::this_thread::yield();
      return;
    }
    if (polls_ == yields + 1) began_ = Clock::now();
    std::this_thread::sleep_for(std::min<Clock::duration>((Clock::now() - began_) / 16, longest_sleep));
  }

  /// Whether to look, now, at what is seldom there.
  bool looks_around() const noexcept { return polls_ % 16 == 0 || polls_ > 1000; }

 private:
  static constexpr std::chrono::microseconds longest_sleep{200};

  MpiAwaited awaited_;
  std::uint64_t polls_ = 0;
  Clock::time_point began_;
};

/// @return The moment at which so much time will have passed, if that is less than a year.
inline MpiPatience::Clock::time_point moment_after(std::chrono::milliseconds time) {
  return MpiPatience::Clock::now() + std::min<std::chrono::milliseconds>(time, std::chrono::years{1});
}

}  // namespace zerospan::inline v0::detail
