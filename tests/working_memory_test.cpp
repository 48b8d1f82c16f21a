#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

#include "support/scratch.hpp"

namespace {

using zerospan::Arena;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::Promise;
using zerospan::detail::WorkingMemory;

constexpr std::size_t unit = WorkingMemory::alignment;

using Tickets = std::set<std::uint64_t>;

Tickets tickets(const std::vector<Completion>& completions) {
  Tickets result;
  for (const Completion& completion : completions) result.insert(completion.ticket());
  return result;
}

Arena make_arena(std::size_t bytes) {
  const auto buffer = std::make_shared<zerospan_test::AlignedBuffer>(zerospan::round_up(bytes, Arena::alignment));
  return Arena{"device memory", std::shared_ptr<std::byte>{buffer, buffer->data()}, Bytes{bytes}};
}

/// Working memory of some units, in an arena that it fills.
struct Fixture {
  explicit Fixture(std::size_t units) : arena{make_arena(units * unit)} {}

  Arena arena;
  WorkingMemory memory{arena.allocate_working(arena.capacity())};
};

TEST_CASE("the capacity is what whole units fit into") {
  Arena arena = make_arena(16 * unit - 1);
  const WorkingMemory memory{arena.allocate_working(arena.capacity())};
  CHECK(memory.capacity() == 15 * unit);
  CHECK(memory.largest_free() == 15 * unit);
  CHECK(memory.data(unit) == memory.data(0) + unit);
  CHECK(memory.find(15 * unit) == 0);
  CHECK_FALSE(memory.find(15 * unit + 1));
  CHECK_FALSE(memory.is_free(0, 15 * unit + 1));
}

TEST_CASE("there may be none") {
  Arena arena = make_arena(4096);
  const auto all = arena.allocate(Bytes{4096}, "all");
  const WorkingMemory memory{arena.allocate_working(Bytes{4096})};
  CHECK(memory.capacity() == 0);
  CHECK(memory.largest_free() == 0);
  CHECK_FALSE(memory.find(unit));
}

TEST_CASE("find gives the lowest range that fits") {
  Fixture f{10};
  f.memory.take(0, 2 * unit);
  f.memory.take(3 * unit, 2 * unit);
  f.memory.take(7 * unit, unit);
  CHECK(f.memory.find(unit) == 2 * unit);
  CHECK(f.memory.find(2 * unit) == 5 * unit);
  CHECK_FALSE(f.memory.find(3 * unit));
  f.memory.give_back(0, {});
  CHECK(f.memory.find(3 * unit) == 0);
  CHECK(f.memory.largest_free() == 3 * unit);
}

TEST_CASE("a range is free at once, and its next user waits for the last uses of the former one") {
  Fixture f{4};
  CHECK(f.memory.take(0, 2 * unit).empty());
  Promise copy{"a copy", 1};
  Promise sum{"a sum", 2};
  f.memory.give_back(0, {copy.completion(), sum.completion()});
  CHECK(f.memory.is_free(0, 4 * unit));
  CHECK(tickets(f.memory.take(unit, 2 * unit)) == Tickets{1, 2});
  copy.succeed();
  CHECK(tickets(f.memory.take(0, unit)) == Tickets{2});
}

TEST_CASE("the arena counts what is taken") {
  Fixture f{8};
  CHECK(f.arena.used() == Bytes{0});
  f.memory.take(0, 3 * unit);
  f.memory.take(3 * unit, 4 * unit);
  CHECK(f.arena.used() == Bytes{7 * unit});
  f.memory.give_back(0, {});
  CHECK(f.arena.used() == Bytes{4 * unit});
  f.memory.give_back(3 * unit, {});
  CHECK(f.arena.used() == Bytes{0});
  CHECK(f.arena.peak() == Bytes{7 * unit});
}

/// The same memory, unit by unit.
class Model {
 public:
  explicit Model(std::size_t units) : taken_(units), uses_(units) {}

  bool is_free(std::size_t first, std::size_t count) const {
    if (first + count > taken_.size()) return false;
    return std::none_of(taken_.begin() + at(first), taken_.begin() + at(first + count), [](bool t) { return t; });
  }
  std::optional<std::size_t> lowest(std::size_t count) const {
    for (std::size_t i = 0; i + count <= taken_.size(); ++i) {
      if (is_free(i, count)) return i;
    }
    return std::nullopt;
  }
  std::optional<std::size_t> highest(std::size_t count) const {
    for (std::size_t i = taken_.size() + 1; i-- > 0;) {
      if (is_free(i, count)) return i;
    }
    return std::nullopt;
  }
  std::size_t largest_free() const {
    std::size_t largest = 0;
    for (std::size_t count = 1; count <= taken_.size(); ++count) largest = lowest(count) ? count : largest;
    return largest;
  }
  Tickets take(std::size_t first, std::size_t count) {
    Tickets after;
    for (std::size_t i = first; i < first + count; ++i) {
      taken_[i] = true;
      after.insert(uses_[i].begin(), uses_[i].end());
      uses_[i].clear();
    }
    return after;
  }
  void give_back(std::size_t first, std::size_t count, const Tickets& last_uses) {
    for (std::size_t i = first; i < first + count; ++i) {
      taken_[i] = false;
      uses_[i].insert(last_uses.begin(), last_uses.end());
    }
  }
  void end(std::uint64_t ticket) {
    for (Tickets& uses : uses_) uses.erase(ticket);
  }

 private:
  static std::ptrdiff_t at(std::size_t i) { return static_cast<std::ptrdiff_t>(i); }

  std::vector<bool> taken_;
  std::vector<Tickets> uses_;
};

/// A random program of takes and returns against the model.
class RandomUse {
 public:
  RandomUse(std::uint32_t seed, std::size_t units) : random_{seed}, units_{units}, fixture_{units}, model_{units} {}

  void step() {
    const std::size_t count = 1 + random_() % 6;
    check(count);
    if (random_() % 2 == 0) {
      take(count);
    } else if (!live_.empty()) {
      give_back();
    }
    if (!promises_.empty() && random_() % 3 == 0) end(random_() % promises_.size());
  }

 private:
  void check(std::size_t count) {
    const auto in_bytes = [](std::optional<std::size_t> n) { return n ? std::optional{*n * unit} : std::nullopt; };
    REQUIRE(fixture_.memory.find(count * unit) == in_bytes(model_.lowest(count)));
    REQUIRE(fixture_.memory.find_highest(count * unit) == in_bytes(model_.highest(count)));
    REQUIRE(fixture_.memory.largest_free() == model_.largest_free() * unit);
    const std::size_t first = random_() % (units_ + 1);
    REQUIRE(fixture_.memory.is_free(first * unit, count * unit) == model_.is_free(first, count));
    std::size_t live = 0;
    for (const auto& range : live_) live += range.second;
    REQUIRE(fixture_.arena.used() == Bytes{live * unit});
    peak_ = std::max(peak_, live);
    REQUIRE(fixture_.arena.peak() == Bytes{peak_ * unit});
  }

  void take(std::size_t count) {
    auto first = model_.lowest(count);
    if (!first) return;
    const std::size_t elsewhere = random_() % units_;
    if (model_.is_free(elsewhere, count)) first = elsewhere;
    REQUIRE(tickets(fixture_.memory.take(*first * unit, count * unit)) == model_.take(*first, count));
    live_.emplace(*first, count);
  }

  void give_back() {
    const auto range = std::next(live_.begin(), static_cast<std::ptrdiff_t>(random_() % live_.size()));
    std::vector<Completion> last_uses;
    for (std::size_t i = random_() % 3; i > 0; --i) {
      promises_.emplace_back("a use", promises_.size() + 1);
      last_uses.push_back(promises_.back().completion());
    }
    model_.give_back(range->first, range->second, tickets(last_uses));
    fixture_.memory.give_back(range->first * unit, std::move(last_uses));
    live_.erase(range);
  }

  void end(std::size_t index) {
    promises_[index].succeed();
    model_.end(index + 1);
  }

  std::mt19937 random_;
  std::size_t units_;
  Fixture fixture_;
  Model model_;
  std::map<std::size_t, std::size_t> live_;  // first unit -> units
  std::deque<Promise> promises_;
  std::size_t peak_ = 0;
};

TEST_CASE("at random: ranges, waits and counts are those of a model that looks at every unit") {
  for (std::uint32_t seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    RandomUse use{seed, 8 + seed};
    for (int i = 0; i < 300; ++i) use.step();
  }
}

}  // namespace
