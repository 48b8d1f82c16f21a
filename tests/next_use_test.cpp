#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <numeric>
#include <random>
#include <utility>
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
  CHECK(next_after({7}) == 7);
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

/// Lines, some of which are in a cache.
class CachedLines {
 public:
  CachedLines(std::size_t lines, std::size_t room)
      : slots_{room}, history_(lines), slot_of_(lines, NextUseSlots::none), owner_(room, lines) {}

  /// @return Whether the line was in the cache.
  bool read(std::size_t line) {
    history_[line].record(++now_);
    std::size_t& slot = slot_of_[line];
    const bool is_hit = slot != NextUseSlots::none;
    if (is_hit) {
      slots_.hold(slot);
    } else if (slot = slots_.claim(history_[line].next(), now_); slot != NextUseSlots::none) {
      if (owner_[slot] < slot_of_.size()) slot_of_[owner_[slot]] = NextUseSlots::none;
      owner_[slot] = line;
    }
    if (slot != NextUseSlots::none) slots_.offer(slot, history_[line].next());
    return is_hit;
  }

  bool has(std::size_t line) const { return slot_of_[line] != NextUseSlots::none; }

 private:
  NextUseSlots slots_;
  std::vector<UseHistory> history_;
  std::vector<std::size_t> slot_of_;
  std::vector<std::size_t> owner_;  ///< By slot; the number of lines: nobody.
  std::uint64_t now_ = 0;
};

/// Hits of each pass over lines in the given orders, with room for `room`.
std::vector<std::size_t> next_use_hits(const std::vector<std::vector<std::size_t>>& passes, std::size_t lines,
                                       std::size_t room) {
  CachedLines cached{lines, room};
  std::vector<std::size_t> hits;
  for (const auto& pass : passes) {
    hits.push_back(0);
    for (const std::size_t line : pass) hits.back() += cached.read(line);
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

TEST_CASE("what was read once gives way to what was read since, and not to what is needed later") {
  NextUseSlots slots{2};
  slots.claim(3, 3);
  slots.offer(0, 3);
  slots.claim(4, 4);
  slots.offer(1, 4);
  CHECK(slots.claim(5, 5) == 0);  // expected at 7, and the other at 6
  slots.offer(0, 5);
  CHECK(slots.claim(11, 7) == NextUseSlots::none);  // they are expected at 10 and 9
  CHECK(slots.claim(9, 7) == 1);
}

TEST_CASE("one-off uses before a cycle do not stay") {
  auto passes = passes_over(12, 5, false);
  passes.insert(passes.begin(), {20, 21, 22, 23, 24, 25, 26});
  const auto hits = next_use_hits(passes, 30, 6);
  CHECK(hits == std::vector<std::size_t>{0, 0, 6, 6, 6, 6});
}

TEST_CASE("the first sweep back hits what the sweep there has read last") {
  for (std::size_t room = 1; room < 16; ++room) {
    CAPTURE(room);
    CHECK(next_use_hits(passes_over(16, 2, true), 16, room)[1] == room);
  }
}

/// The most hits of any choice of what is in the cache, from what is there on.
std::size_t most_hits(const std::vector<std::size_t>& reads, std::uint32_t resident, std::size_t room) {
  std::map<std::uint32_t, std::size_t> best{{resident, 0}};  // hits so far, by what is in the cache: bits of lines
  for (const std::size_t line : reads) {
    const std::uint32_t read = std::uint32_t{1} << line;
    std::map<std::uint32_t, std::size_t> next;
    const auto reach = [&next](std::uint32_t there, std::size_t hits) { next[there] = std::max(next[there], hits); };
    for (const auto& [there, hits] : best) {
      reach(there, hits + ((there & read) != 0));
      if ((there & read) != 0) continue;
      if (static_cast<std::size_t>(std::popcount(there)) < room) reach(there | read, hits);
      for (std::uint32_t others = there; others != 0; others &= others - 1) {
        reach((there & ~(others & (0U - others))) | read, hits);
      }
    }
    best = std::move(next);
  }
  return std::ranges::max_element(best, {}, &std::pair<const std::uint32_t, std::size_t>::second)->second;
}

TEST_CASE("cycles at random that read lines once or twice: once they are known, no choice hits more") {
  std::mt19937 random{20261};
  std::size_t all = 0;
  for (int round = 0; round < 300; ++round) {
    CAPTURE(round);
    const std::size_t lines = 2 + random() % 6;
    const std::size_t room = 1 + random() % lines;
    std::vector<std::size_t> cycle;
    for (std::size_t line = 0; line < lines; ++line) cycle.insert(cycle.end(), 1 + random() % 2, line);
    std::ranges::shuffle(cycle, random);
    CachedLines cached{lines, room};
    for (int known = 0; known < 3; ++known) {
      for (const std::size_t line : cycle) cached.read(line);
    }
    std::uint32_t resident = 0;
    for (std::size_t line = 0; line < lines; ++line) resident |= std::uint32_t{cached.has(line)} << line;
    std::vector<std::size_t> reads;
    for (int again = 0; again < 4; ++again) reads.insert(reads.end(), cycle.begin(), cycle.end());
    std::size_t hits = 0;
    for (const std::size_t line : reads) hits += cached.read(line);
    CHECK(hits == most_hits(reads, resident, room));
    all += hits;
  }
  CHECK(all > 5000);
}

}  // namespace
