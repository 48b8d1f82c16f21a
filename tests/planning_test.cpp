#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/pipeline/detail/interval_plan.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

#include "support/sample.hpp"

namespace {

using zerospan::detail::AddressRanges;
using zerospan::detail::IntervalPlan;
using zerospan::detail::TimedRanges;
using zerospan::detail::Trace;
using zerospan::detail::TraceUse;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;

constexpr std::size_t layer_bytes = 64;

enum class Pattern : std::uint8_t { backward_alone, there_and_back, all_at_once };

void use(Trace& trace, UseKind kind, std::uint32_t number) {
  trace.release(trace.acquire(UseKey{kind, number}, layer_bytes, 0));
}

/// A step over `layers` layers in random order. Each layer of backward is gathered and writes a gradient.
Trace step_of(Pattern pattern, std::uint32_t layers) {
  std::vector<std::uint32_t> order(layers);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, std::mt19937{1});
  Trace trace;
  std::vector<std::size_t> held;
  if (pattern == Pattern::there_and_back) {
    for (const std::uint32_t layer : order) use(trace, UseKind::gathered, layer);
    std::ranges::reverse(order);
  }
  for (const std::uint32_t layer : order) {
    held.push_back(trace.acquire(UseKey{UseKind::gathered, layer}, layer_bytes, 0));
    use(trace, UseKind::gradient, layer);
    if (pattern == Pattern::all_at_once) continue;
    trace.release(held.back());
    held.pop_back();
  }
  for (const std::size_t leased : held) trace.release(leased);
  return trace;
}

std::size_t steps_of(Pattern pattern, std::uint32_t layers, std::size_t capacity, std::size_t look_ahead) {
  const Trace trace = step_of(pattern, layers);
  return IntervalPlan{trace, capacity * layer_bytes, look_ahead * layer_bytes}.steps();
}

TEST_CASE("twice the leases take about twice the steps to plan") {
  static constexpr std::uint32_t layers = zerospan_test::is_sanitized ? 500 : 4000;
  const auto check_doubling = [](Pattern pattern, std::size_t a_quarter_of) {
    for (const std::size_t quarters : {1U, 2U, 4U, 16U}) {
      CAPTURE(quarters);
      const auto steps = [&](std::uint32_t n) {
        const std::size_t units = a_quarter_of == 0 ? 64 * quarters : n * quarters / 4 + 8;
        return static_cast<double>(steps_of(pattern, n, units, units / 4));
      };
      CHECK(steps(layers) > layers);
      CHECK(steps(2 * layers) / steps(layers) <= 2.6);
    }
  };
  SUBCASE("backward alone, memory in proportion") { check_doubling(Pattern::backward_alone, 1); }
  SUBCASE("there and back, memory in proportion: much stays") { check_doubling(Pattern::there_and_back, 1); }
  SUBCASE("there and back, little memory") { check_doubling(Pattern::there_and_back, 0); }
  SUBCASE("all layers at once") {
    const auto steps = [](std::uint32_t n) {
      return static_cast<double>(steps_of(Pattern::all_at_once, n, 2 * n, n / 2));
    };
    CHECK(steps(2 * layers) / steps(layers) <= 2.6);
  }
}

TEST_CASE("200,000 leases are planned, in some hundred steps each") {
  constexpr std::uint32_t layers = zerospan_test::is_sanitized ? 10'000 : 100'000;
  const Trace trace = step_of(Pattern::backward_alone, layers);
  const IntervalPlan plan{trace, layers * layer_bytes, layers / 100 * layer_bytes};
  REQUIRE(plan.size() == 2 * layers);
  std::size_t posted = 0;
  for (std::size_t u = 0; u < plan.size(); ++u) posted += plan[u].post != IntervalPlan::on_demand;
  CHECK(posted == layers);
  CHECK(plan.steps() / plan.size() < 300);
}

TEST_CASE("at random: ranges that are taken until a time, against a model that looks at every byte") {
  constexpr std::size_t memory = 48;
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    TimedRanges ranges;
    std::vector<std::size_t> until(memory);
    std::size_t time = 0;
    for (int i = 0; i < 300; ++i) {
      const std::size_t bytes = 1 + random() % 10;
      const std::size_t offset = random() % (memory - bytes + 1);
      if (random() % 3 == 0) {
        time += random() % 5;
        const bool ends = std::ranges::any_of(until, [&](std::size_t end) { return end > 0 && end <= time; });
        REQUIRE(ranges.advance(time) == ends);
        for (std::size_t& end : until) end = end <= time ? 0 : end;
      } else {
        const std::size_t end = random() % 8 == 0 ? 0 : time + 1 + random() % 20;
        ranges.take(offset, bytes, end);
        std::fill_n(until.begin() + static_cast<std::ptrdiff_t>(offset), bytes, end);
      }
      for (std::size_t begin = 0; begin + bytes <= memory; ++begin) {
        const auto first = until.begin() + static_cast<std::ptrdiff_t>(begin);
        const bool is_free =
            std::all_of(first, first + static_cast<std::ptrdiff_t>(bytes), [](std::size_t end) { return end == 0; });
        REQUIRE(ranges.taken().is_free(begin, bytes) == is_free);
      }
    }
  }
}

TEST_CASE("ranges are found by their beginning and by what they overlap") {
  AddressRanges ranges;
  CHECK(ranges.empty());
  CHECK(ranges.top() == 0);
  CHECK(ranges.largest_gap(100) == 100);
  CHECK_FALSE(ranges.first_overlap(0, 100));
  ranges.insert(10, 5, 7);
  ranges.insert(30, 10, 8);
  CHECK(ranges.find(10)->label == 7);
  CHECK_FALSE(ranges.find(11));
  CHECK_FALSE(ranges.find(15));
  CHECK(ranges.first_overlap(14, 100)->begin == 10);
  CHECK(ranges.first_overlap(15, 16)->begin == 30);
  CHECK_FALSE(ranges.first_overlap(15, 15));
  CHECK(ranges.lowest(10) == 0);
  CHECK(ranges.lowest(15) == 15);
  CHECK(ranges.lowest(16) == 40);
  CHECK(ranges.highest(10, 50) == 40);
  CHECK(ranges.highest(11, 50) == 19);
  CHECK(ranges.highest(10, 30) == 20);
  CHECK(ranges.largest_gap(42) == 15);
  CHECK(ranges.erase(10) == 5);
  CHECK(ranges.largest_gap(42) == 30);
  CHECK(ranges.erase(30) == 10);
  CHECK(ranges.empty());
}

TEST_CASE("many ranges in any order: gaps are those of a sorted list, in logarithmic time") {
  std::mt19937 random{11};
  constexpr std::size_t count = 4096;
  std::vector<std::size_t> order(count);
  for (const bool is_random : {false, true}) {
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (is_random) std::ranges::shuffle(order, random);
    AddressRanges ranges;
    for (const std::size_t i : order) ranges.insert(10 * i, i == 1000 ? 3 : i == 3000 ? 2 : 5);
    CHECK(ranges.steps() < 40 * count);
    CHECK(ranges.lowest(5) == 5);
    CHECK(ranges.lowest(6) == 10'003);
    CHECK(ranges.lowest(8) == 30'002);
    CHECK(ranges.highest(6, 10 * count) == 30'004);
    CHECK(ranges.highest(5, 10 * count) == 10 * count - 5);
    CHECK(ranges.largest_gap(10 * count) == 8);
    for (const std::size_t i : order) ranges.erase(10 * i);
    CHECK(ranges.empty());
  }
}

}  // namespace
