#include <doctest/doctest.h>

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_error.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

#include "support/figures.hpp"
#include "support/mpi_world.hpp"

namespace {

using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::ConfigurationError;
using zerospan::MpiCommunicator;
using zerospan::MpiOptions;
using zerospan_test::process_count;
using zerospan_test::process_rank;

static_assert(std::is_nothrow_move_constructible_v<MpiCommunicator>);
static_assert(!std::is_copy_constructible_v<MpiCommunicator>);

constexpr MpiOptions patient{.timeout = std::chrono::seconds{60}};

constexpr Collective named(const char* name) { return {calling_thread, name}; }

/// What a program of the host's does with its own communicator: messages of any tag, from any source, and collectives.
/// @return Whether every number arrived where it should.
bool do_the_hosts_work(MpiCommunicator& communicator, int rounds) {
  const int right = (process_rank() + 1) % process_count();
  const int left = (process_rank() + process_count() - 1) % process_count();
  bool all_right = true;
  for (int i = 0; i < rounds; ++i) {
    const int sent = 1000 * process_rank() + i;
    int received = -1;
    long sum = 1;
    communicator.exclusive([&] {
      MPI_Sendrecv(&sent, 1, MPI_INT, right, i % 7, &received, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD,
                   MPI_STATUS_IGNORE);
      MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    });
    all_right = all_right && received == 1000 * left + i && sum == process_count();
  }
  return all_right;
}

/// Small collectives and large ones. @return Whether the numbers are right.
bool do_our_work(MpiCommunicator& communicator, int rounds) {
  bool all_right = true;
  const auto ranks = static_cast<std::size_t>(communicator.size());
  for (int i = 0; i < rounds; ++i) {
    std::vector<std::int64_t> integers(i % 2 == 0 ? 3 : 5000, i + communicator.rank().value);
    communicator.all_reduce(named("integers"), integers);
    const std::int64_t sum = communicator.size() * i + communicator.size() * (communicator.size() - 1) / 2;
    for (const std::int64_t each : integers) all_right = all_right && each == sum;

    const std::size_t shard = i % 2 == 0 ? 64 : 40'000;
    std::vector<std::byte> bytes(shard * ranks, static_cast<std::byte>(communicator.rank().value + i));
    const zerospan::GatherPart part{bytes.data(), shard};
    communicator.all_gather(named("bytes"), std::span{&part, 1});
    for (std::size_t k = 0; k < bytes.size(); ++k) {
      all_right = all_right && bytes[k] == static_cast<std::byte>(k / shard + static_cast<std::size_t>(i));
    }
  }
  return all_right;
}

}  // namespace

TEST_CASE("the host's own traffic on its communicator goes on beside ours") {
  int provided = MPI_THREAD_SINGLE;
  MPI_Query_thread(&provided);
  CAPTURE(provided);
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  auto duplicate = communicator.duplicate();
  bool ours = false;
  bool of_duplicate = false;
  bool hosts = false;
  {
    const std::jthread first{[&] { ours = do_our_work(communicator, 100); }};
    const std::jthread second{[&] { of_duplicate = do_our_work(duplicate, 100); }};
    hosts = do_the_hosts_work(communicator, 100);
  }
  CHECK(ours);
  CHECK(of_duplicate);
  CHECK(hosts);
}

TEST_CASE("exclusive returns what the host's function does") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  int number = 7;
  CHECK(communicator.exclusive([] { return 5; }) == 5);
  static_assert(std::is_same_v<decltype(communicator.exclusive([&]() -> int& { return number; })), int&>);
  communicator.exclusive([&] { number = 8; });
  CHECK(number == 8);
  CHECK_THROWS_WITH(communicator.exclusive([] { throw std::runtime_error{"the host's"}; }), "the host's");
  communicator.barrier(named("in good health"));
}

TEST_CASE("a communicator outlives the host's that it was made from") {
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &host);
  MpiCommunicator communicator{host, patient};
  MPI_Comm_free(&host);
  CHECK(do_our_work(communicator, 4));
}

TEST_CASE("ranks are those of the host's communicator") {
  MPI_Comm reversed = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, 0, -process_rank(), &reversed);
  {
    MpiCommunicator communicator{reversed, patient};
    CHECK(communicator.rank().value == process_count() - 1 - process_rank());
    CHECK(communicator.size() == process_count());
    CHECK(do_our_work(communicator, 2));
  }
  MPI_Comm_free(&reversed);
}

TEST_CASE("two families of the same ranks do not mix") {
  int provided = MPI_THREAD_SINGLE;
  MPI_Query_thread(&provided);
  if (provided < MPI_THREAD_MULTIPLE) return;
  MpiCommunicator one{MPI_COMM_WORLD, patient};
  MpiCommunicator other{MPI_COMM_WORLD, patient};
  bool well = false;
  {
    const std::jthread thread{[&] { well = do_our_work(one, 50); }};
    CHECK(do_our_work(other, 50));
  }
  CHECK(well);
  if (process_rank() == 0) one.abort("only this one");
  CHECK_THROWS_AS(one.barrier(named("b")), zerospan::RankFailedError);
  CHECK(do_our_work(other, 2));
}

TEST_CASE("what is no group of ranks, and options that mean nothing, are refused") {
  const auto make = [](MPI_Comm host, const MpiOptions& options) { return MpiCommunicator{host, options}; };
  CHECK_THROWS_AS(make(MPI_COMM_NULL, {}), ConfigurationError);
  CHECK_THROWS_AS(make(MPI_COMM_WORLD, {.timeout = std::chrono::milliseconds{0}}), ConfigurationError);
  CHECK_THROWS_AS(make(MPI_COMM_WORLD, {.largest_message = zerospan::Bytes{0}}), ConfigurationError);
  CHECK_THROWS_AS(make(MPI_COMM_WORLD, {.largest_message = zerospan::Bytes{std::size_t{1} << 31}}), ConfigurationError);

  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm between = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, process_rank() % 2, 0, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - process_rank() % 2, 0, &between);
  CHECK_THROWS_WITH_AS(make(between, {}),
                       "an MpiCommunicator is made from one group of ranks: an intercommunicator is not one",
                       ConfigurationError);
  MPI_Comm_free(&between);
  MPI_Comm_free(&half);
}

TEST_CASE("options that differ between ranks are found at once") {
  const MpiOptions options{
      .timeout = std::chrono::seconds{60},
      .scratch = zerospan::Bytes{process_rank() == 1 ? std::size_t{1} << 20 : std::size_t{2} << 20}};
  CHECK_THROWS_AS((MpiCommunicator{MPI_COMM_WORLD, options}), zerospan::DivergenceError);
}

TEST_CASE("a rank that makes no communicator is not waited for for ever") {
  if (process_rank() == 0) {
    const MpiOptions hasty{.timeout = std::chrono::milliseconds{300}};
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &host);
    CHECK_THROWS_AS((MpiCommunicator{host, hasty}), zerospan::TimeoutError);
  } else {
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &host);
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST_CASE("an MpiError carries MPI's code and its words") {
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &host);
  MPI_Comm_set_errhandler(host, MPI_ERRORS_RETURN);
  const int code = MPI_Send(nullptr, 0, MPI_BYTE, process_count(), 0, host);
  try {
    zerospan::check_mpi(code, "MPI_Send");
    FAIL("no error");
  } catch (const zerospan::MpiError& error) {
    CHECK(error.code() == code);
    CHECK(std::string{error.what()}.find("MPI_Send failed: MPI_ERR_RANK") == 0);
  }
  MPI_Comm_free(&host);
}

TEST_CASE("sums and means of the host's figures are those in rank order") {
  const zerospan_test::SomeRanks two{2};
  if (!two.is_one()) return;
  MpiCommunicator communicator{two.host(), patient};
  CHECK(zerospan_test::figures_are_right(communicator, process_rank(), std::array{0, 1}));
}
