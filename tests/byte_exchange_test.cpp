#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/core/error.hpp>

namespace {

using zerospan::CommunicatorExchange;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan::ThreadExchange;
using zerospan::detail::AnyExchange;

/// The least that is one.
struct LoneExchange {
  Rank rank() const { return Rank{0}; }
  int size() const { return 1; }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
    for (std::size_t i = 0; i < mine.size(); ++i) all[i] = mine[i];
  }
};
struct NamelessExchange : LoneExchange {
  int rank() const;
};
static_assert(zerospan::ByteExchange<LoneExchange> && !zerospan::ByteExchange<NamelessExchange>);
static_assert(!zerospan::DuplicatesExchange<LoneExchange> && !zerospan::AbortsExchange<LoneExchange> &&
              !zerospan::PostsToBoard<LoneExchange>);
static_assert(zerospan::DuplicatesExchange<CommunicatorExchange<zerospan::SelfCommunicator>> &&
              zerospan::SplitsExchange<CommunicatorExchange<zerospan::SelfCommunicator>> &&
              !zerospan::SplitsExchange<LoneExchange>);

std::vector<std::byte> gather_bytes(auto& exchange, std::byte mine) {
  std::vector<std::byte> all(static_cast<std::size_t>(exchange.size()));
  exchange.all_gather(std::span{&mine, 1}, all);
  return all;
}

const std::vector<std::byte> one_two_three{std::byte{1}, std::byte{2}, std::byte{3}};

}  // namespace

TEST_CASE("a communicator exchanges bytes, and its duplicates do by themselves") {
  const auto all = zerospan::run_ranks(3, [](ThreadCommunicator communicator) {
    CommunicatorExchange exchange{std::move(communicator)};
    auto twin = exchange.duplicate();
    const auto mine = static_cast<std::byte>(exchange.rank().value + 1);
    CHECK(gather_bytes(twin, mine) == one_two_three);
    return gather_bytes(exchange, mine);
  });
  for (const auto& each : all) CHECK(each == one_two_three);
}

TEST_CASE("threads share a board") {
  zerospan::run_ranks(3, [](ThreadCommunicator communicator) {
    AnyExchange exchange = AnyExchange::of(ThreadExchange{std::move(communicator)});
    AnyExchange twin = exchange.duplicate();
    CHECK(exchange.has_board());
    const std::byte mine{static_cast<unsigned char>(exchange.rank().value + 1)};
    CHECK(exchange.peek(exchange.rank()).empty());
    exchange.post(std::span{&mine, 1});
    CHECK(gather_bytes(twin, mine) == one_two_three);
    for (int rank = 0; rank < 3; ++rank) {
      CHECK(exchange.peek(Rank{rank}) == std::vector{one_two_three[static_cast<std::size_t>(rank)]});
    }
  });
}

TEST_CASE("exchanges are split, each group with a board of its own") {
  zerospan::run_ranks(4, [](ThreadCommunicator communicator) {
    AnyExchange exchange = AnyExchange::of(ThreadExchange{std::move(communicator)});
    REQUIRE(exchange.can_split());
    const int rank = exchange.rank().value;
    AnyExchange part = exchange.split({rank == 3 ? 1 : 0, -rank});
    const std::byte mine{static_cast<unsigned char>(3 - rank)};
    CHECK(gather_bytes(part, mine) == (rank == 3 ? std::vector{std::byte{0}} : one_two_three));
    part.post(std::span{&mine, 1});
    gather_bytes(exchange, mine);
    CHECK(part.peek(Rank{part.size() - 1}) == std::vector{rank == 3 ? std::byte{0} : std::byte{3}});
    CHECK(exchange.peek(exchange.rank()).empty());
  });
}

TEST_CASE("an aborted exchange wakes those who gather") {
  const auto run = [] {
    zerospan::run_ranks(2, [](ThreadCommunicator communicator) {
      ThreadExchange exchange{std::move(communicator)};
      if (exchange.rank() == Rank{0}) exchange.abort("enough");
      gather_bytes(exchange, std::byte{});
    });
  };
  CHECK_THROWS_AS(run(), zerospan::RankFailedError);
}

TEST_CASE("an exchange that has the least is its own duplicate and has no board") {
  AnyExchange exchange = AnyExchange::of(LoneExchange{});
  AnyExchange twin = exchange.duplicate();
  CHECK(gather_bytes(twin, std::byte{5}) == std::vector{std::byte{5}});
  CHECK(!exchange.has_board());
  CHECK(!exchange.can_split());
  CHECK_THROWS_AS(exchange.split({0, 0}), zerospan::ConfigurationError);
  exchange.abort("nobody hears");
  exchange.post({});
  CHECK(exchange.peek(Rank{0}).empty());
}
