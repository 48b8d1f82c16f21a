/// @file
/// LinkClock: when transfers over a link of known speed end.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// One direction of a link. Transfers pass one after the other in the order of the calls: each has the whole bandwidth,
/// and arrives the latency after its last byte was sent. Not synchronized.
class LinkClock {
 public:
  using Time = std::chrono::steady_clock::time_point;

  LinkClock(double bytes_per_second, std::chrono::nanoseconds latency) noexcept
      : bytes_per_second_{bytes_per_second}, latency_{latency} {}

  /// @return when a transfer arrives that is ready at `start`.
  Time transfer(Time start, std::size_t bytes) noexcept {
    free_ = std::max(free_, start) + duration(bytes);
    return free_ + latency_;
  }

  /// When the link has sent all it was given.
  Time free() const noexcept { return free_; }

 private:
  /// Never longer than about a year: no sum of a few of them overflows.
  std::chrono::nanoseconds duration(std::size_t bytes) const noexcept {
    constexpr double longest = 3e7;
    const double seconds = std::min(static_cast<double>(bytes) / bytes_per_second_, longest);
    return std::chrono::ceil<std::chrono::nanoseconds>(std::chrono::duration<double>{seconds});
  }

  double bytes_per_second_;
  std::chrono::nanoseconds latency_;
  Time free_{};
};

}  // namespace zerospan::inline v0::detail
