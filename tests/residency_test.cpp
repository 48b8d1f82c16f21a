#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace {

using zerospan::detail::Residency;
using zerospan::detail::Trace;
using zerospan::detail::TraceEvent;
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

/// What may stay of a trace, by trying every choice.
class Trial {
 public:
  Trial(const Trace& trace, std::size_t memory) : memory_{memory} {
    std::map<UseKey, std::size_t> last;
    std::size_t taken = 0;
    std::size_t draining = 0;
    for (const TraceEvent& event : trace.events) {
      const TraceUse& use = trace.uses[event.use];
      const bool is_gradient = use.key.kind == UseKind::gradient;
      if (event.kind == TraceEvent::Kind::release) {
        taken -= is_gradient ? std::exchange(draining, use.bytes) : use.bytes;
        continue;
      }
      taken_.push_back(taken += use.bytes);
      if (is_gradient) continue;
      gathered_ += use.bytes;
      const auto [former, is_first] = last.try_emplace(use.key, event.use);
      if (!is_first) gaps_.push_back({std::exchange(former->second, event.use), event.use, use.bytes});
    }
    try_from(0, 0);
  }

  /// Bytes that are gathered at least.
  std::size_t fewest() const { return gathered_ - most_kept_; }

  /// Bytes that are gathered if nothing stays.
  std::size_t gathered() const { return gathered_; }

 private:
  /// Between two uses of a key, of which the first has ended before any other begins.
  struct Gap {
    std::size_t from, to;
    std::size_t bytes;
  };

  void try_from(std::size_t gap, std::size_t kept) {
    most_kept_ = std::max(most_kept_, kept);
    if (gap == gaps_.size()) return;
    try_from(gap + 1, kept);
    const auto [from, to, bytes] = gaps_[gap];
    const auto first = taken_.begin() + static_cast<std::ptrdiff_t>(from) + 1;
    const auto end = taken_.begin() + static_cast<std::ptrdiff_t>(to);
    if (std::any_of(first, end, [&](std::size_t taken) { return taken + bytes > memory_; })) return;
    std::for_each(first, end, [bytes = bytes](std::size_t& taken) { taken += bytes; });
    try_from(gap + 1, kept + bytes);
    std::for_each(first, end, [bytes = bytes](std::size_t& taken) { taken -= bytes; });
  }

  std::size_t memory_;
  std::vector<std::size_t> taken_;  ///< At each acquisition.
  std::vector<Gap> gaps_;
  std::size_t gathered_ = 0;
  std::size_t most_kept_ = 0;
};

std::size_t gathered_by_residency(const Trace& trace, std::size_t memory) {
  const Residency residency{trace, memory};
  std::size_t bytes = 0;
  for (const TraceUse& use : trace.uses) bytes += use.key.kind == UseKind::gathered ? use.bytes : 0;
  for (std::size_t u = 0; u < trace.uses.size(); ++u) bytes -= residency.kept_for(u) != never ? trace.uses[u].bytes : 0;
  return bytes;
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
    const Trial trial{trace, capacity};
    CHECK(gathered_by_residency(trace, capacity) == trial.fewest());
    kept += trial.gathered() - trial.fewest();
  }
  CHECK(kept > 500);
}

/// A small cycle of passes, and memory for a part of it.
class RandomCycle {
 public:
  /// @param largest The sizes of buffers are from 1 to this.
  RandomCycle(std::uint32_t seed, std::size_t largest) : random_{seed}, bytes_(2 + below(4)) {
    for (std::size_t& bytes : bytes_) bytes = 1 + below(largest);
    below(2) == 0 ? go_around() : go_there_and_back();
    const std::size_t all = std::accumulate(bytes_.begin(), bytes_.end(), std::size_t{0});
    memory = std::ranges::max(bytes_) + below(2 * all);
  }

  Trace trace;
  std::size_t memory = 0;

 private:
  std::size_t below(std::size_t bound) { return random_() % bound; }

  void use(UseKind kind, std::size_t layer) {
    trace.release(trace.acquire(UseKey{kind, static_cast<std::uint32_t>(layer)}, bytes_[layer], 0));
  }

  /// Some layers in any order, some of them several times, and again.
  void go_around() {
    std::vector<std::size_t> cycle(bytes_.size() + below(4));
    for (std::size_t& layer : cycle) layer = below(bytes_.size());
    const std::size_t uses = 8 + below(8);
    for (std::size_t i = 0; i < uses; ++i) use(UseKind::gathered, cycle[i % cycle.size()]);
  }

  /// Forward and backward with gradients, in two micro-batches.
  void go_there_and_back() {
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
      for (std::size_t layer = 0; layer < bytes_.size(); ++layer) use(UseKind::gathered, layer);
      for (std::size_t layer = bytes_.size(); layer-- > 0;) {
        use(UseKind::gradient, layer);
        use(UseKind::gathered, layer);
      }
    }
  }

  std::mt19937 random_;
  std::vector<std::size_t> bytes_;  ///< Of each layer.
};

TEST_CASE("cycles at random: buffers of one size are gathered as rarely as any choice allows") {
  std::size_t kept = 0;
  for (std::uint32_t seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    const RandomCycle cycle{seed, 1};
    const Trial trial{cycle.trace, cycle.memory};
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
      const Trial trial{cycle.trace, cycle.memory};
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
