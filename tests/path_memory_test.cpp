#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/pipeline/detail/path_memory.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace {

using zerospan::detail::IntervalPlan;
using zerospan::detail::Path;
using zerospan::detail::PathMemory;
using zerospan::detail::Trace;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;

constexpr std::uint8_t training = 0;
constexpr std::uint8_t evaluation = 1;

/// A pass that uses these keys, one after the other.
Trace trace(const std::vector<std::uint32_t>& keys, UseKind kind = UseKind::gathered) {
  Trace result;
  for (const std::uint32_t key : keys) result.release(result.acquire(UseKey{kind, key}, 64, 0));
  return result;
}

struct Fixture {
  void learn(const Trace& t, std::uint8_t pass = training) { memory.learn(pass, t, 1024, 256); }
  void learn(std::uint32_t key, std::uint8_t pass = training) { learn(trace({key}), pass); }

  /// The first key of the path that is expected; -1 if none is.
  int expected(std::uint8_t pass = training) const {
    const Path* path = memory.expected(pass);
    return path ? static_cast<int>(path->trace.uses[0].key.number) : -1;
  }

  PathMemory memory{IntervalPlan::usual_gathers_ahead};
};

TEST_CASE("two passes are the same path if their events, keys and kinds agree") {
  CHECK(trace({1, 2}).same_path(trace({1, 2})));
  CHECK_FALSE(trace({1, 2}).same_path(trace({1, 3})));
  CHECK_FALSE(trace({1, 2}).same_path(trace({1})));
  CHECK_FALSE(trace({1}).same_path(trace({1, 2})));
  CHECK_FALSE(trace({1}).same_path(trace({1}, UseKind::gradient)));
  Trace nested;
  const auto outer = nested.acquire(UseKey{UseKind::gathered, 1}, 64, 0);
  const auto inner = nested.acquire(UseKey{UseKind::gathered, 2}, 64, 64);
  Trace crossed = nested;
  nested.release(inner);
  nested.release(outer);
  crossed.release(outer);
  crossed.release(inner);
  CHECK_FALSE(nested.same_path(crossed));
  CHECK_FALSE(nested.same_path(trace({1, 2})));
}

TEST_CASE("a trace tells when its uses were acquired and released") {
  Trace t;
  const auto a = t.acquire(UseKey{UseKind::gathered, 7}, 128, 64);
  const auto b = t.acquire(UseKey{UseKind::gradient, 8}, 64, 192);
  CHECK(t.uses[a].released == zerospan::detail::TraceUse::never);
  t.release(a);
  t.release(b);
  REQUIRE(t.uses.size() == 2);
  REQUIRE(t.events.size() == 4);
  CHECK(t.uses[0].key == UseKey{UseKind::gathered, 7});
  CHECK(t.uses[0].bytes == 128);
  CHECK(t.uses[0].offset == 64);
  CHECK(t.uses[0].acquired == 0);
  CHECK(t.uses[0].released == 2);
  CHECK(t.uses[1].key.kind == UseKind::gradient);
  CHECK(t.uses[1].acquired == 1);
  CHECK(t.uses[1].released == 3);
}

TEST_CASE("nothing is expected of a kind of pass that was never taken") {
  Fixture f;
  CHECK(f.expected() == -1);
  f.learn(1, evaluation);
  CHECK(f.expected(training) == -1);
  CHECK(f.expected(evaluation) == 1);
}

TEST_CASE("a path is expected again, with its plan") {
  Fixture f;
  f.learn(trace({1, 2}));
  const Path* path = f.memory.expected(training);
  REQUIRE(path != nullptr);
  CHECK(path->trace.same_path(trace({1, 2})));
  CHECK(path->plan.size() == 2);
  f.learn(trace({1, 2}));
  CHECK(f.memory.expected(training) == path);
}

TEST_CASE("a path that was never followed by another one is expected to repeat") {
  Fixture f;
  f.learn(1);
  f.learn(2);
  CHECK(f.expected() == 2);
}

TEST_CASE("alternation is expected") {
  Fixture f;
  f.learn(1);
  f.learn(2);
  for (int i = 0; i < 5; ++i) {
    f.learn(1);
    CHECK(f.expected() == 2);
    f.learn(2);
    CHECK(f.expected() == 1);
  }
}

TEST_CASE("a cycle of three is expected") {
  Fixture f;
  for (const std::uint32_t key : {1U, 2U, 3U, 1U}) f.learn(key);
  for (std::uint32_t i = 1; i <= 9; ++i) {
    const std::uint32_t next = i % 3 + 1;
    CHECK(f.expected() == static_cast<int>(next));
    f.learn(next);
  }
}

TEST_CASE("what came last after a path comes next") {
  Fixture f;
  for (const std::uint32_t key : {1U, 2U, 1U, 3U, 1U}) f.learn(key);
  CHECK(f.expected() == 3);
}

TEST_CASE("kinds of passes have successors of their own") {
  Fixture f;
  f.learn(1);
  f.learn(1, evaluation);  // the same keys, another path
  f.learn(2);
  f.learn(5, evaluation);
  f.learn(1);
  CHECK(f.expected(training) == 2);
  f.learn(1, evaluation);
  CHECK(f.expected(evaluation) == 5);
  CHECK(f.expected(training) == 2);
}

TEST_CASE("the path that was taken the longest time ago is forgotten, and nothing leads to it any more") {
  Fixture f;
  for (const std::uint32_t key : {0U, 1U, 0U}) f.learn(key);
  for (std::uint32_t key = 2; key < PathMemory::max_paths; ++key) f.learn(key, evaluation);
  CHECK(f.expected() == 1);  // as many are known as can be; 1 is the oldest
  f.learn(100, evaluation);
  CHECK(f.expected() == 0);  // its successor is forgotten
  f.learn(101, evaluation);
  CHECK(f.expected() == -1);  // it is forgotten too
  CHECK(f.expected(evaluation) == 101);
  f.learn(1);
  CHECK(f.expected() == 1);
  f.learn(0);
  CHECK(f.expected() == 0);
}

TEST_CASE("taking a path again keeps it from being forgotten") {
  Fixture f;
  f.learn(0);
  f.learn(1);
  for (std::uint32_t key = 2; key < 100; ++key) {
    f.learn(key, evaluation);
    f.learn(0);
    f.learn(1);
    REQUIRE(f.expected() == 0);
  }
}

/// Paths by their key, with lists in place of pointers.
class Model {
 public:
  void learn(std::uint8_t pass, int key) {
    const Id id{pass, key};
    std::erase(by_age_, id);
    by_age_.insert(by_age_.begin(), id);
    if (last_.contains(pass)) successor_[last_.at(pass)] = id;
    last_[pass] = id;
    if (by_age_.size() <= PathMemory::max_paths) return;
    const Id oldest = by_age_.back();
    by_age_.pop_back();
    successor_.erase(oldest);
    std::erase_if(successor_, [&](const auto& entry) { return entry.second == oldest; });
    std::erase_if(last_, [&](const auto& entry) { return entry.second == oldest; });
  }
  int expected(std::uint8_t pass) const {
    if (!last_.contains(pass)) return -1;
    const auto next = successor_.find(last_.at(pass));
    return next == successor_.end() ? last_.at(pass).second : next->second.second;
  }

 private:
  using Id = std::pair<std::uint8_t, int>;
  std::vector<Id> by_age_;
  std::map<Id, Id> successor_;
  std::map<std::uint8_t, Id> last_;
};

TEST_CASE("at random: expectations are those of a model without pointers") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    Fixture f;
    Model model;
    for (int i = 0; i < 500; ++i) {
      const auto pass = static_cast<std::uint8_t>(random() % 8 == 0 ? evaluation : training);
      const std::uint32_t key = static_cast<std::uint32_t>(random() % (4 + seed));
      f.learn(key, pass);
      model.learn(pass, static_cast<int>(key));
      REQUIRE(f.expected(training) == model.expected(training));
      REQUIRE(f.expected(evaluation) == model.expected(evaluation));
    }
  }
}

}  // namespace
