// Floats in two halves.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/kernels/split_float.hpp>

namespace {

using zerospan::bfloat16;
using zerospan::SplitFloat;

bool comes_back(std::uint32_t word) {
  const auto value = std::bit_cast<float>(word);
  const auto back = std::bit_cast<std::uint32_t>(static_cast<float>(SplitFloat{value}));
  return back == (std::isnan(value) ? word | 0x400000U : word);
}

/// No other bfloat16 is nearer.
bool is_nearest(float value) {
  const SplitFloat halves{value};
  const double distance = std::fabs(static_cast<double>(static_cast<float>(halves.nearest)) - double{value});
  for (const int step : {-1, 1}) {
    bfloat16 other;
    other.bits = static_cast<std::uint16_t>(halves.nearest.bits + step);
    const auto there = static_cast<float>(other);
    if (std::isfinite(there) && std::fabs(static_cast<double>(there) - double{value}) < distance) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a float that was split comes back with all its bits") {
  std::mt19937 random{5};
  for (int i = 0; i < 1'000'000; ++i) {
    const auto word = static_cast<std::uint32_t>(random());
    REQUIRE(comes_back(word));
    for (const std::uint32_t lower : {0U, 1U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      REQUIRE(comes_back((word & 0xffff0000U) | lower));
    }
  }
  for (const std::uint32_t word : {0U, 0x80000000U, 0x7f800000U, 0xff800000U, 0x7f7fffffU, 0x7f7f8000U, 0x7fc00000U,
                                   0x7f800001U, 0xffffffffU, 1U, 0x8000U, 0x80008000U}) {
    CAPTURE(word);
    CHECK(comes_back(word));
  }
}

TEST_CASE("every float that was split comes back with all its bits" * doctest::skip()) {
  std::uint32_t wrong = 0;
  std::uint32_t word = 0;
  do {
    if (!comes_back(word)) ++wrong;
  } while (++word != 0);
  CHECK(wrong == 0);
}

TEST_CASE("the upper half is the nearest, of two that are equally near the one away from zero") {
  CHECK(SplitFloat{1.0F}.nearest.bits == 0x3f80);
  CHECK(SplitFloat{std::bit_cast<float>(0x3f808000U)}.nearest.bits == 0x3f81);
  CHECK(SplitFloat{std::bit_cast<float>(0xbf808000U)}.nearest.bits == 0xbf81);
  CHECK(SplitFloat{std::bit_cast<float>(0x3f818000U)}.nearest.bits == 0x3f82);
  CHECK(std::isinf(static_cast<float>(SplitFloat{std::numeric_limits<float>::max()}.nearest)));
  CHECK(std::isnan(static_cast<float>(SplitFloat{std::bit_cast<float>(0x7f800001U)}.nearest)));
  std::mt19937 random{6};
  for (int i = 0; i < 100'000; ++i) {
    const auto word = static_cast<std::uint32_t>(random());
    const auto value = std::bit_cast<float>(word);
    if (!std::isfinite(value)) continue;
    const SplitFloat halves{value};
    if ((word & 0xffffU) != 0x8000U) REQUIRE(halves.nearest.bits == bfloat16{value}.bits);
    if (std::isfinite(static_cast<float>(halves.nearest))) REQUIRE(is_nearest(value));
  }
}

TEST_CASE("arrays are split and joined as their elements are, whatever their lengths") {
  std::mt19937 random{7};
  for (const std::size_t n : {0U, 1U, 63U, 64U, 65U, 1000U}) {
    std::vector<float> values(n);
    for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()) & 0xbfffffffU);
    std::vector<bfloat16> nearest(n + 1);
    std::vector<std::uint16_t> lower(n + 1);
    zerospan::split(values, nearest.data(), lower.data());
    for (std::size_t i = 0; i < n; ++i) {
      REQUIRE(nearest[i].bits == SplitFloat{values[i]}.nearest.bits);
      REQUIRE(lower[i] == SplitFloat{values[i]}.lower);
    }
    CHECK(nearest[n].bits == 0);
    CHECK(lower[n] == 0);
    std::vector<float> joined(n);
    zerospan::join(nearest.data(), lower.data(), joined);
    CHECK(joined == values);
  }
}
