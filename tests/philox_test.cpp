#include <array>
#include <cstdint>
#include <set>

#include <doctest/doctest.h>

#include <zerospan/core/philox.hpp>

namespace {

using Words = std::array<std::uint32_t, 4>;

// The known-answer vectors of Random123 (kat_vectors, "philox4x32 10"), least significant word first.

TEST_CASE("Philox4x32-10 of zeros") {
  CHECK(zerospan::philox(0, 0, 0) == Words{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U});
}

TEST_CASE("Philox4x32-10 of ones") {
  CHECK(zerospan::philox(~0ULL, ~0ULL, ~0ULL) == Words{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU});
}

TEST_CASE("Philox4x32-10 of the digits of pi") {
  constexpr std::uint64_t key = 0x299f31d0'a4093822ULL;
  constexpr std::uint64_t high = 0x03707344'13198a2eULL;
  constexpr std::uint64_t low = 0x85a308d3'243f6a88ULL;
  CHECK(zerospan::philox(key, high, low) == Words{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U});
  static_assert(zerospan::philox(key, high, low)[0] == 0xd16cfe09U, "usable at compile time");
}

TEST_CASE("every part of key and counter matters") {
  std::set<Words> seen{zerospan::philox(0, 0, 0)};
  for (int bit = 0; bit < 64; ++bit) {
    CHECK(seen.insert(zerospan::philox(1ULL << bit, 0, 0)).second);
    CHECK(seen.insert(zerospan::philox(0, 1ULL << bit, 0)).second);
    CHECK(seen.insert(zerospan::philox(0, 0, 1ULL << bit)).second);
  }
}

}  // namespace
