/// @file
/// Strong types for the numbers that are easily confused: byte counts and ranks.
#pragma once

#include <compare>
#include <cstddef>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// A count of bytes. Budgets and capacities in public interfaces are `Bytes`, never a bare number: it is made of one by
/// name alone (`Bytes{64}`, `64_MiB`).
struct Bytes {
  std::size_t count = 0;

  constexpr Bytes() noexcept = default;
  constexpr explicit Bytes(std::size_t bytes) noexcept : count{bytes} {}

  friend constexpr bool operator==(Bytes, Bytes) = default;
  friend constexpr auto operator<=>(Bytes, Bytes) = default;
  friend constexpr Bytes operator+(Bytes a, Bytes b) noexcept { return Bytes{a.count + b.count}; }
};

/// A rank of a communicator: 0 <= value < world size.
struct Rank {
  int value = 0;

  friend constexpr bool operator==(Rank, Rank) = default;
  friend constexpr auto operator<=>(Rank, Rank) = default;
};

inline namespace literals {

constexpr Bytes operator""_KiB(unsigned long long n) noexcept { return Bytes{static_cast<std::size_t>(n) << 10}; }
constexpr Bytes operator""_MiB(unsigned long long n) noexcept { return Bytes{static_cast<std::size_t>(n) << 20}; }
constexpr Bytes operator""_GiB(unsigned long long n) noexcept { return Bytes{static_cast<std::size_t>(n) << 30}; }

}  // namespace literals

/// `n` rounded up to the next multiple of `multiple` (which is positive).
constexpr std::size_t round_up(std::size_t n, std::size_t multiple) noexcept {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace zerospan::inline v0
