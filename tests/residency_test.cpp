#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <random>
#include <vector>

#include <zerospan/pipeline/detail/residency.hpp>

namespace {

using zerospan::detail::Residency;
using zerospan::detail::Trace;
using zerospan::detail::TraceUse;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;

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

/// The most buffers that can stay, by trying every choice.
std::size_t best_by_trial(const Keys& keys, std::size_t capacity) {
  std::vector<std::pair<std::size_t, std::size_t>> gaps;
  std::map<std::uint32_t, std::size_t> last;
  for (std::size_t u = 0; u < keys.size(); ++u) {
    const auto [before, is_first] = last.try_emplace(keys[u], u);
    if (!is_first) gaps.emplace_back(before->second, u);
    before->second = u;
  }
  std::size_t best = 0;
  for (std::size_t choice = 0; choice < (std::size_t{1} << gaps.size()); ++choice) {
    std::size_t kept = 0;
    bool fits = true;
    for (std::size_t use = 0; use < keys.size() && fits; ++use) {
      std::size_t beside = 0;
      for (std::size_t g = 0; g < gaps.size(); ++g) {
        beside += (choice >> g & 1) != 0 && gaps[g].first < use && use < gaps[g].second;
      }
      fits = beside + 1 <= capacity;
    }
    for (std::size_t g = 0; g < gaps.size(); ++g) kept += choice >> g & 1;
    if (fits) best = std::max(best, kept);
  }
  return best;
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
    const std::size_t ours = count_kept(Residency{trace, capacity}, trace);
    CHECK(ours == best_by_trial(keys, capacity));
    kept += ours;
  }
  CHECK(kept > 500);
}

}  // namespace
