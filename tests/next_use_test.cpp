#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <numeric>
#include <vector>

#include <zerospan/tier/detail/next_use.hpp>

namespace {

using zerospan::detail::NextUseSlots;
using zerospan::detail::UseHistory;

std::uint64_t next_after(const std::vector<std::uint64_t>& times) {
  UseHistory history;
  for (const std::uint64_t time : times) history.record(time);
  return history.next();
}

TEST_CASE("the next use follows from the last three") {
  CHECK(next_after({}) == UseHistory::never);
  CHECK(next_after({7}) == UseHistory::never);
  CHECK(next_after({7, 17}) == 27);
  CHECK(next_after({7, 17, 27}) == 37);
  CHECK(next_after({2, 17, 22}) == 37);
  CHECK(next_after({2, 17, 22, 37}) == 42);
}

TEST_CASE("free slots are taken first, then that of the farthest use") {
  NextUseSlots slots{3};
  for (std::size_t i = 0; i < 3; ++i) CHECK(slots.claim(UseHistory::never, 0) == i);
  CHECK(slots.claim(5, 0) == NextUseSlots::none);  // all are held
  slots.offer(0, 30);
  slots.offer(1, 50);
  slots.offer(2, 40);
  CHECK(slots.claim(50, 10) == NextUseSlots::none);
  CHECK(slots.claim(49, 10) == 1);
  slots.hold(2);
  CHECK(slots.claim(20, 10) == 0);
  CHECK(slots.claim(11, 10) == NextUseSlots::none);
  slots.release(2);
  CHECK(slots.claim(UseHistory::never, 10) == 2);
}

TEST_CASE("what is not known to be used again goes first, and takes nobody's place") {
  NextUseSlots slots{1};
  slots.claim(UseHistory::never, 1);
  slots.offer(0, UseHistory::never);
  CHECK(slots.claim(UseHistory::never, 2) == NextUseSlots::none);
  CHECK(slots.claim(1000000, 3) == 0);
}

TEST_CASE("what is overdue is expected to be as late again") {
  NextUseSlots slots{2};
  slots.claim(0, 0);
  slots.claim(0, 0);
  slots.offer(0, 100);
  slots.offer(1, 130);
  CHECK(slots.claim(129, 110) == 1);  // 100 is expected at 120
  slots.offer(1, 130);
  CHECK(slots.claim(129, 125) == 0);  // 100 is expected at 150
}

/// Hits of each pass over lines in the given orders, with room for `room`.
std::vector<std::size_t> next_use_hits(const std::vector<std::vector<std::size_t>>& passes, std::size_t lines,
                                       std::size_t room) {
  NextUseSlots slots{room};
  std::vector<UseHistory> history(lines);
  std::vector<std::size_t> slot_of(lines, NextUseSlots::none);
  std::vector<std::size_t> owner(room, lines);
  std::vector<std::size_t> hits;
  std::uint64_t now = 0;
  for (const auto& pass : passes) {
    hits.push_back(0);
    for (const std::size_t line : pass) {
      history[line].record(++now);
      std::size_t& slot = slot_of[line];
      if (slot != NextUseSlots::none) {
        ++hits.back();
        slots.hold(slot);
      } else if (slot = slots.claim(history[line].next(), now); slot != NextUseSlots::none) {
        if (owner[slot] < lines) slot_of[owner[slot]] = NextUseSlots::none;
        owner[slot] = line;
      }
      if (slot != NextUseSlots::none) slots.offer(slot, history[line].next());
    }
  }
  return hits;
}

std::vector<std::size_t> lru_hits(const std::vector<std::vector<std::size_t>>& passes, std::size_t room) {
  std::list<std::size_t> recent;
  std::vector<std::size_t> hits;
  for (const auto& pass : passes) {
    hits.push_back(0);
    for (const std::size_t line : pass) {
      const auto found = std::ranges::find(recent, line);
      if (found != recent.end()) {
        ++hits.back();
        recent.erase(found);
      }
      recent.push_front(line);
      if (recent.size() > room) recent.pop_back();
    }
  }
  return hits;
}

std::vector<std::vector<std::size_t>> passes_over(std::size_t lines, std::size_t count, bool alternates) {
  std::vector<std::size_t> order(lines);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<std::vector<std::size_t>> passes;
  for (std::size_t i = 0; i < count; ++i) {
    passes.push_back(order);
    if (alternates) std::ranges::reverse(order);
  }
  return passes;
}

TEST_CASE("a cycle hits what fits from the second time on, where recency hits nothing") {
  for (const std::size_t lines : {2U, 5U, 16U, 33U}) {
    for (std::size_t room = 1; room < lines; ++room) {
      CAPTURE(lines);
      CAPTURE(room);
      const auto passes = passes_over(lines, 6, false);
      std::vector<std::size_t> expected(6, room);
      expected[0] = 0;
      CHECK(next_use_hits(passes, lines, room) == expected);
      CHECK(lru_hits(passes, room) == std::vector<std::size_t>(6, 0));
    }
  }
}

TEST_CASE("sweeps forward and backward hit at least what fits, once they are known") {
  for (const std::size_t lines : {2U, 5U, 16U, 33U}) {
    for (std::size_t room = 1; room < lines; ++room) {
      CAPTURE(lines);
      CAPTURE(room);
      const auto hits = next_use_hits(passes_over(lines, 8, true), lines, room);
      for (std::size_t pass = 4; pass < hits.size(); ++pass) CHECK(hits[pass] >= room);
    }
  }
}

TEST_CASE("one-off uses before a cycle do not stay") {
  auto passes = passes_over(12, 5, false);
  passes.insert(passes.begin(), {20, 21, 22, 23, 24, 25, 26});
  const auto hits = next_use_hits(passes, 30, 6);
  CHECK(hits == std::vector<std::size_t>{0, 0, 0, 6, 6, 6});
}

}  // namespace
