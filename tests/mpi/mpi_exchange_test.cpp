#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <mpi.h>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/detail/nccl/nccl_rank.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/core/error.hpp>

#include "support/mpi_world.hpp"

using zerospan::CommunicatorExchange;
using zerospan::MpiCommunicator;
using zerospan_test::process_count;
using zerospan_test::process_rank;

using MpiExchange = CommunicatorExchange<MpiCommunicator>;
static_assert(zerospan::DuplicatesExchange<MpiExchange> && zerospan::SplitsExchange<MpiExchange> &&
              zerospan::AbortsExchange<MpiExchange> && !zerospan::PostsToBoard<MpiExchange>);

namespace {

MpiExchange exchange() { return MpiExchange{MpiCommunicator{MPI_COMM_WORLD, {.timeout = std::chrono::seconds{60}}}}; }

/// NCCL's ids among others.
using Words = std::array<std::byte, 128>;

Words words_of(int rank) {
  Words words{};
  std::ranges::fill(words, static_cast<std::byte>(rank + 1));
  return words;
}

}  // namespace

TEST_CASE("processes exchange bytes over MPI, in duplicates and in groups too") {
  auto whole = zerospan::detail::AnyExchange::of(exchange());
  REQUIRE(whole.can_split());
  auto twin = whole.duplicate();
  auto part = whole.split({process_rank() % 2, -process_rank()});
  const auto all = zerospan::detail::gather(whole, words_of(process_rank()));
  const auto again = zerospan::detail::gather(twin, words_of(process_rank()));
  const auto beside = zerospan::detail::gather(part, words_of(process_rank()));
  REQUIRE(all.size() == static_cast<std::size_t>(process_count()));
  for (int rank = 0; rank < process_count(); ++rank) {
    CHECK(all[static_cast<std::size_t>(rank)] == words_of(rank));
  }
  CHECK(again == all);
  std::vector<Words> expected;
  for (int rank = process_count() - 1; rank >= 0; --rank) {
    if (rank % 2 == process_rank() % 2) expected.push_back(words_of(rank));
  }
  CHECK(beside == expected);
  CHECK(beside[static_cast<std::size_t>(part.rank().value)] == words_of(process_rank()));
}

TEST_CASE("an exchange that a process aborts in its group ends on all") {
  auto whole = exchange();
  auto part = whole.split({process_rank() % 2, process_rank()});
  if (process_rank() == 1) part.abort("out of luck");
  Words words{};
  std::vector<std::byte> all(words.size() * static_cast<std::size_t>(process_count()));
  try {
    for (;;) whole.all_gather(words, all);
  } catch (const zerospan::RankFailedError& error) {
    CHECK(error.culprit() == zerospan::Rank{1});
  }
}
