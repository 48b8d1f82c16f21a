#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <random>
#include <vector>

#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

#include "support/every_residency.hpp"

namespace {

using zerospan::detail::Residency;
using zerospan::detail::Trace;
using zerospan::detail::TraceUse;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;
using zerospan_test::EveryResidency;
using zerospan_test::gathered_by_residency;
using zerospan_test::RandomCycle;

constexpr std::size_t never = TraceUse::never;

using Keys = std::vector<std::uint32_t>;

/// Each key is used and released in turn.
Trace trace_of(const Keys& keys, std::size_t bytes = 1) {
  Trace trace;
  for (const std::uint32_t key : keys) trace.release(trace.acquire(UseKey{UseKind::gathered, key}, bytes, 0));
  return trace;
}

std::size_t count_kept(const Residency& residency, const Trace& trace) {
  std::size_t kept = 0;
  for (std::size_t u = 0; u < trace.uses.size(); ++u) kept += residency.kept_for(u) != never;
  return kept;
}

/// How many uses would find their key if the `capacity` keys used last were kept.
std::size_t hits_by_recency(const Keys& keys, std::size_t capacity) {
  std::list<std::uint32_t> recent;
  std::size_t hits = 0;
  for (const std::uint32_t key : keys) {
    const auto found = std::ranges::find(recent, key);
    if (found != recent.end()) {
      ++hits;
      recent.erase(found);
    }
    recent.push_front(key);
    if (recent.size() > capacity) recent.pop_back();
  }
  return hits;
}

Keys cycles(std::uint32_t length, std::size_t times) {
  Keys keys;
  for (std::size_t i = 0; i < times; ++i) {
    for (std::uint32_t key = 0; key < length; ++key) keys.push_back(key);
  }
  return keys;
}

TEST_CASE("without memory nothing stays, with enough everything does") {
  const Trace trace = trace_of({0, 1, 2, 0, 1, 2});
  CHECK(count_kept(Residency{trace}, trace) == 0);
  CHECK(count_kept(Residency{trace, 1}, trace) == 0);
  const Residency all{trace, 3};
  CHECK(count_kept(all, trace) == 3);
  for (std::size_t u = 0; u < 3; ++u) CHECK(all.kept_for(u) == u + 3);
  for (std::size_t u = 3; u < 6; ++u) CHECK(all.kept_for(u) == never);
}

TEST_CASE("the last layer of forward stays for the first of backward") {
  const Trace trace = trace_of({0, 1, 2, 3, 3, 2, 1, 0});
  const Residency residency{trace, 2};
  CHECK(residency.kept_for(3) == 4);
  CHECK(residency.kept_for(2) == 5);  // one in use, one beside it
  CHECK(residency.kept_for(1) == never);
}

TEST_CASE("a cycle keeps what memory holds, where recency keeps nothing") {
  constexpr std::uint32_t length = 10;
  const Keys keys = cycles(length, 5);
  const Trace trace = trace_of(keys);
  for (const std::size_t capacity : {2U, 5U, 9U}) {
    CAPTURE(capacity);
    CHECK(hits_by_recency(keys, capacity) == 0);
    CHECK(count_kept(Residency{trace, capacity}, trace) >= 4 * (capacity - 1));
  }
  CHECK(count_kept(Residency{trace, length}, trace) == 40);
}

TEST_CASE("a gradient counts from its lease until the next one ends") {
  Trace trace;
  const auto gather = [&](std::uint32_t key) { trace.release(trace.acquire(UseKey{UseKind::gathered, key}, 1, 0)); };
  const auto gradient = [&](std::uint32_t key) { trace.release(trace.acquire(UseKey{UseKind::gradient, key}, 2, 0)); };
  gather(0);
  gradient(0);
  gather(1);
  gradient(1);
  gather(0);
  CHECK(Residency{trace, 5}.kept_for(0) == 4);  // beside two gradients of two
  CHECK(Residency{trace, 4}.kept_for(0) == never);
}

TEST_CASE("a key that is used twice at once does not stay for what has begun already") {
  Trace trace;
  const auto a = trace.acquire(UseKey{UseKind::gathered, 7}, 1, 0);
  const auto b = trace.acquire(UseKey{UseKind::gathered, 7}, 1, 1);
  trace.release(a);
  trace.release(b);
  const auto c = trace.acquire(UseKey{UseKind::gathered, 7}, 1, 0);
  trace.release(c);
  const Residency residency{trace, 100};
  CHECK(residency.kept_for(a) == never);
  CHECK(residency.kept_for(b) == c);
}

TEST_CASE("at random: of buffers of one size, no choice keeps more") {
  std::mt19937 random{20241};
  std::size_t kept = 0;
  for (int round = 0; round < 300; ++round) {
    Keys keys;
    const std::size_t different = 2 + random() % 5;
    const std::size_t uses = 6 + random() % 9;
    while (keys.size() < uses) keys.push_back(static_cast<std::uint32_t>(random() % different));
    const std::size_t capacity = 1 + random() % 4;
    CAPTURE(round);
    const Trace trace = trace_of(keys);
    const EveryResidency trial{trace, capacity};
    CHECK(gathered_by_residency(trace, capacity) == trial.fewest());
    kept += trial.gathered() - trial.fewest();
  }
  CHECK(kept > 500);
}

TEST_CASE("cycles at random: buffers of one size are gathered as rarely as any choice allows") {
  std::size_t kept = 0;
  for (std::uint32_t seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    const RandomCycle cycle{seed, 1};
    const EveryResidency trial{cycle.trace, cycle.memory};
    CHECK(gathered_by_residency(cycle.trace, cycle.memory) == trial.fewest());
    kept += trial.gathered() - trial.fewest();
  }
  CHECK(kept > 2000);
}

TEST_CASE("cycles at random: buffers of several sizes, beside the best choice") {
  for (const std::size_t largest : {2U, 8U, 64U}) {
    CAPTURE(largest);
    double worst = 1;
    double sum = 0;
    std::size_t best = 0;
    constexpr std::uint32_t cycles = 1000;
    for (std::uint32_t seed = 0; seed < cycles; ++seed) {
      const RandomCycle cycle{seed, largest};
      const EveryResidency trial{cycle.trace, cycle.memory};
      const std::size_t ours = gathered_by_residency(cycle.trace, cycle.memory);
      REQUIRE(ours >= trial.fewest());
      const double ratio = static_cast<double>(ours) / static_cast<double>(trial.fewest());
      worst = std::max(worst, ratio);
      sum += ratio;
      best += ours == trial.fewest();
    }
    MESSAGE("bytes gathered, beside the fewest: " << sum / cycles << " of them on average, " << worst
                                                  << " at worst, as many in " << best << " of " << cycles);
    CHECK(sum / cycles < 1.018);
    CHECK(worst < 2);
  }
}

TEST_CASE("of buffers of several sizes none is given up for room that it would not have taken") {
  Trace trace;
  const auto use = [&](std::uint32_t key, std::size_t bytes) {
    trace.release(trace.acquire(UseKey{UseKind::gathered, key}, bytes, 0));
  };
  use(0, 1);  // needed last
  use(1, 8);  // too large to stay beside what comes next
  use(2, 4);
  use(1, 8);
  use(0, 1);
  const Residency residency{trace, 9};
  CHECK(residency.kept_for(1) == never);
  CHECK(residency.kept_for(0) == 4);
}

}  // namespace
