#include <doctest/doctest.h>

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

#include "support/mpi_world.hpp"
#include "support/rank_end.hpp"

namespace {

using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::MpiCommunicator;
using zerospan::MpiOptions;
using zerospan::Rank;
using zerospan_test::contains;
using zerospan_test::process_count;
using zerospan_test::process_rank;
using zerospan_test::rank_end_of;

using End = zerospan_test::RankEnd;
using Kind = End::Kind;

constexpr MpiOptions patient{.timeout = std::chrono::seconds{60}};
constexpr MpiOptions hasty{.timeout = std::chrono::milliseconds{300}};

constexpr Collective named(const char* name) { return {calling_thread, name}; }

/// Gathers so many bytes a rank.
void gather(MpiCommunicator& communicator, const char* name, std::size_t bytes) {
  std::vector<std::byte> buffer(bytes * static_cast<std::size_t>(communicator.size()));
  const zerospan::GatherPart part{buffer.data(), bytes};
  communicator.all_gather(named(name), std::span{&part, 1});
}

/// The same processes do well together after whatever happened.
void check_all_is_well() {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  gather(communicator, "after all", 5000);
}

/// One that every rank sees fail alike, and whose duplicate fails too.
void check_kept(MpiCommunicator& communicator, MpiCommunicator& duplicate, Kind kind, int culprit) {
  for (MpiCommunicator* each : {&communicator, &duplicate}) {
    const End end = rank_end_of([&] { each->barrier(named("later")); });
    CAPTURE(end.text);
    CHECK(end.kind == kind);
    CHECK(end.culprit == culprit);
    if (kind != Kind::divergence)
      CHECK(contains(end.text, "before rank " + std::to_string(process_rank()) + " called"));
  }
}

}  // namespace

TEST_CASE("ranks that gather different sizes, or under different names, are told what each called") {
  const int last = process_count() - 1;
  for (const std::size_t bytes : {std::size_t{8}, std::size_t{1} << 20}) {
    MpiCommunicator communicator{MPI_COMM_WORLD, patient};
    auto duplicate = communicator.duplicate();
    gather(communicator, "w0", bytes);
    const bool differs = process_rank() == last;
    const End end = rank_end_of([&] { gather(communicator, "w1", differs ? bytes + 8 : bytes); });
    CAPTURE(end.text);
    CHECK(end.kind == Kind::divergence);
    CHECK(end.culprit == last);
    const std::string call = "all-gather 'w1' of ";
    CHECK(contains(end.text, "rank 0: " + call + std::to_string(bytes) + " bytes a rank (#2)"));
    CHECK(contains(end.text, "rank " + std::to_string(last) + ": " + call + std::to_string(bytes + 8)));
    check_kept(communicator, duplicate, Kind::divergence, last);
  }
  check_all_is_well();
}

TEST_CASE("ranks that use parameters in different orders are told so") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  const bool differs = process_rank() == 1;
  const End end = rank_end_of([&] {
    gather(communicator, differs ? "second" : "first", 4096);
    gather(communicator, differs ? "first" : "second", 4096);
  });
  CAPTURE(end.text);
  CHECK(end.kind == Kind::divergence);
  CHECK(end.culprit == 1);
  CHECK(contains(end.text, "rank 0: all-gather 'first'"));
  CHECK(contains(end.text, "rank 1: all-gather 'second'"));
  check_all_is_well();
}

TEST_CASE("a rank that makes a step more is told so") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  const End end = rank_end_of([&] {
    std::vector<std::int64_t> norm(3);
    if (process_rank() == 1) communicator.all_reduce(named("the gradient norm"), norm);
    gather(communicator, "w0", 4096);
  });
  CAPTURE(end.text);
  CHECK(end.kind == Kind::divergence);
  CHECK(contains(end.text, "rank 1: all-reduce 'the gradient norm' of 3 integers (#0)"));
  CHECK(contains(end.text, "rank 0: all-gather 'w0' of 4096 bytes a rank (#0)"));
  check_all_is_well();
}

TEST_CASE("long names differ where they are not shown") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  const std::string name(1000, 'x');
  const End end =
      rank_end_of([&] { communicator.barrier(named((name + std::to_string(process_rank() % 2)).c_str())); });
  CHECK(end.kind == Kind::divergence);
  CHECK(end.culprit == 1);
}

TEST_CASE("a rank stalls") {
  MpiCommunicator communicator{MPI_COMM_WORLD, hasty};
  auto duplicate = communicator.duplicate();
  gather(communicator, "w0", 1 << 20);
  const bool stalls = process_rank() == 1;
  if (stalls) MPI_Barrier(MPI_COMM_WORLD);  // until the others have failed
  const End end = rank_end_of([&] { gather(communicator, "w1", 1 << 20); });
  if (!stalls) MPI_Barrier(MPI_COMM_WORLD);
  CAPTURE(end.text);
  CHECK(end.kind == Kind::timeout);
  CHECK(end.culprit == 1);
  CHECK(contains(end.text,
                 "rank 1 did not arrive at all-gather 'w1' of 1048576 bytes a rank (#2) within 300 ms, while rank " +
                     std::to_string(process_rank()) + " waits in all-gather 'w1'"));
  check_kept(communicator, duplicate, Kind::timeout, 1);
  check_all_is_well();
}

TEST_CASE("a rank aborts: while the others wait, and in another communicator of theirs") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  auto duplicate = communicator.duplicate();
  communicator.barrier(named("all are here"));
  End end;
  if (process_rank() == 1) {
    duplicate.abort("out of cheese");
    end = rank_end_of([&] { communicator.barrier(named("never")); });
    CHECK(contains(end.text, "rank 1 failed (out of cheese) before rank 1 called barrier 'never' (#2)"));
  } else {
    end = rank_end_of([&] { communicator.barrier(named("never")); });
    const std::string me = "rank " + std::to_string(process_rank());
    const bool waited =
        contains(end.text, "rank 1 failed (out of cheese) while " + me + " waits in barrier 'never' (#2)");
    const bool heard =
        contains(end.text, "rank 1 failed (out of cheese) before " + me + " called barrier 'never' (#2)");
    CAPTURE(end.text);
    CHECK((waited || heard));
  }
  CHECK(end.kind == Kind::failed);
  CHECK(end.culprit == 1);
  check_kept(communicator, duplicate, Kind::failed, 1);
  check_all_is_well();
}

TEST_CASE("a rank aborts from another thread, while its own collective waits") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  End end;
  if (process_rank() == 1) {
    MPI_Barrier(MPI_COMM_WORLD);
    end = rank_end_of([&] {
      const std::jthread other{[&] { communicator.abort(std::string(100'000, 'y')); }};
      communicator.barrier(named("some wait for another collective"));
    });
  } else {
    MPI_Barrier(MPI_COMM_WORLD);
    // Rank 1 cannot get through on its own: rank 0 waits for the abort.
    end = rank_end_of([&] {
      std::vector<std::int64_t> integers(1);
      if (process_rank() == 0) communicator.all_reduce(named("but"), integers);
      if (process_rank() != 0) communicator.barrier(named("some wait for another collective"));
    });
  }
  CAPTURE(end.text);
  CHECK((end.kind == Kind::failed || end.kind == Kind::divergence));
  check_all_is_well();
}

TEST_CASE("a rank returns while the others wait") {
  End end;
  {
    MpiCommunicator communicator{MPI_COMM_WORLD, patient};
    gather(communicator, "w0", 4096);
    if (process_rank() != 1) {
      end = rank_end_of([&] { gather(communicator, "w1", 4096); });
      CAPTURE(end.text);
      CHECK(end.kind == Kind::failed);
      CHECK(end.culprit == 1);
      CHECK(contains(end.text, "rank 1 returned while rank " + std::to_string(process_rank()) +
                                   " waits in all-gather 'w1' of 4096 bytes a rank (#1)"));
    }
  }
  check_all_is_well();
}

TEST_CASE("a rank's exception reaches the others") {
  const End end = rank_end_of([] {
    MpiCommunicator communicator{MPI_COMM_WORLD, patient};
    gather(communicator, "w0", 4096);
    if (process_rank() == 1) throw std::domain_error{"my own reasons"};
    gather(communicator, "w1", 4096);
  });
  CAPTURE(end.text);
  if (process_rank() == 1) {
    CHECK(end.text == "my own reasons");
  } else {
    CHECK(end.kind == Kind::failed);
    CHECK(end.culprit == 1);
    CHECK(contains(end.text, "rank 1 failed (its communicator was destroyed by an exception)"));
  }
  check_all_is_well();
}

TEST_CASE("many families come and go, some of them broken") {
  for (int i = 0; i < 30; ++i) {
    MpiCommunicator communicator{MPI_COMM_WORLD, patient};
    auto duplicate = communicator.duplicate();
    gather(duplicate, "w0", 100);
    if (i % 3 != 0) continue;
    if (process_rank() == i % process_count()) communicator.abort("broken");
    CHECK(rank_end_of([&] { communicator.barrier(named("b")); }).culprit == i % process_count());
  }
  check_all_is_well();
}
