#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/pipeline/detail/former_uses.hpp>

namespace {

using zerospan::Completion;
using zerospan::Promise;
using zerospan::detail::FormerUses;

using Tickets = std::set<std::uint64_t>;

Tickets tickets(const std::vector<Completion>& completions) {
  Tickets result;
  for (const Completion& completion : completions) result.insert(completion.ticket());
  return result;
}

std::exception_ptr an_error() { return std::make_exception_ptr(std::runtime_error{"disk on fire"}); }

TEST_CASE("a range waits for the uses that it overlaps, not for its neighbours") {
  Promise a{"a", 1};
  Promise b{"b", 2};
  Promise c{"c", 3};
  FormerUses uses;
  uses.record(0, 10, a.completion());
  uses.record(10, 10, b.completion());
  uses.record(20, 10, c.completion());
  CHECK(tickets(uses.overwrite(10, 10)) == Tickets{2});
  CHECK(tickets(uses.overwrite(9, 12)) == Tickets{1, 3});
  CHECK(tickets(uses.overwrite(9, 12)).empty());
}

TEST_CASE("what is left of a use on either side is remembered") {
  Promise a{"a", 1};
  FormerUses uses;
  uses.record(0, 100, a.completion());
  CHECK(tickets(uses.overwrite(40, 20)) == Tickets{1});
  CHECK(tickets(uses.overwrite(40, 20)).empty());
  CHECK(tickets(uses.overwrite(39, 1)) == Tickets{1});
  CHECK(tickets(uses.overwrite(60, 1)) == Tickets{1});
  CHECK(tickets(uses.overwrite(39, 22)).empty());
  CHECK(tickets(uses.overwrite(0, 100)) == Tickets{1});
}

TEST_CASE("several uses of one range are all waited for") {
  Promise a{"a", 1};
  Promise b{"b", 2};
  FormerUses uses;
  uses.record(5, 5, a.completion());
  uses.record(5, 5, b.completion());
  CHECK(tickets(uses.overwrite(0, 6)) == Tickets{1, 2});
}

TEST_CASE("a use that has ended is not waited for; one that has failed is") {
  Promise ended{"ended", 1};
  Promise failed{"failed", 2};
  FormerUses uses;
  uses.record(0, 10, ended.completion());
  uses.record(0, 10, failed.completion());
  uses.record(0, 10, Completion{});
  ended.succeed();
  failed.fail(an_error());
  const auto after = uses.overwrite(0, 10);
  REQUIRE(after.size() == 1);
  CHECK(after[0].label() == "failed");
  CHECK_THROWS_WITH_AS(after[0].wait(), "disk on fire", std::runtime_error);
}

TEST_CASE("at random: every range waits for exactly what has used it since it was last taken") {
  constexpr std::size_t memory = 64;
  for (std::uint32_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    FormerUses uses;
    std::vector<Tickets> model(memory);  // the uses of each byte
    std::deque<Promise> promises;
    Tickets succeeded;
    for (int i = 0; i < 400; ++i) {
      const std::size_t begin = random() % memory;
      const std::size_t bytes = 1 + random() % (memory - begin);
      if (random() % 2 == 0) {
        const std::uint64_t ticket = promises.size() + 1;
        promises.emplace_back("a use", ticket);
        uses.record(begin, bytes, promises.back().completion());
        for (std::size_t b = begin; b < begin + bytes; ++b) model[b].insert(ticket);
      } else {
        Tickets expected;
        for (std::size_t b = begin; b < begin + bytes; ++b) {
          for (const std::uint64_t ticket : model[b]) {
            if (!succeeded.contains(ticket)) expected.insert(ticket);
          }
          model[b].clear();
        }
        REQUIRE(tickets(uses.overwrite(begin, bytes)) == expected);
      }
      if (!promises.empty() && random() % 2 == 0) {
        const std::size_t index = random() % promises.size();
        if (promises[index].completion().done()) continue;
        if (random() % 8 == 0) {
          promises[index].fail(an_error());
        } else {
          promises[index].succeed();
          succeeded.insert(index + 1);
        }
      }
    }
  }
}

}  // namespace
