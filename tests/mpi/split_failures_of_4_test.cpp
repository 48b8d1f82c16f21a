#include <doctest/doctest.h>

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_options.hpp>

#include "support/mpi_world.hpp"
#include "support/split_conformance.hpp"

using namespace zerospan_test;
using zerospan::MpiCommunicator;
using zerospan::MpiOptions;

namespace {

constexpr MpiOptions patient{.timeout = std::chrono::seconds{60}};
constexpr MpiOptions hasty{.timeout = std::chrono::milliseconds{300}};

void check_all_is_well() {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  auto part = communicator.split(strided.place(communicator.rank()));
  CHECK(sum_over(part, 1) == 2);
}

}  // namespace

TEST_CASE("a rank that stalls in its group is named to the other group too") {
  for (const Grouping& grouping : {consecutive, strided}) {
    const int stalls = grouping.groups[1][1];
    MpiCommunicator communicator{MPI_COMM_WORLD, hasty};
    auto part = communicator.split(grouping.place(communicator.rank()));
    const bool is_late = process_rank() == stalls;
    if (is_late) MPI_Barrier(MPI_COMM_WORLD);  // until the others have failed
    const std::string end = end_of([&] {
      for (;;) part.barrier(named("of the group"));
    });
    if (!is_late) MPI_Barrier(MPI_COMM_WORLD);
    const std::string name = "rank " + std::to_string(stalls);
    CAPTURE(end);
    CHECK(holds(end, "timeout of " + name + ": " + name +
                         " did not arrive at barrier 'of the group' (#0) within 300 ms"));
    const std::string own = end_of([&] { communicator.barrier(named("of all")); });
    CHECK(holds(own, name + " did not arrive at barrier 'of the group' (#0)"));
    CHECK(holds(own, "before rank " + std::to_string(process_rank()) + " called barrier 'of all' (#1)"));
  }
  check_all_is_well();
}

TEST_CASE("a group's root is told as the whole names it") {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  auto part = communicator.split(strided.place(communicator.rank()));
  const std::string end = end_of([&] {
    Buffer bytes(process_rank() == 3 ? 8 : 4);
    part.broadcast(named("step"), bytes, zerospan::Rank{1});
    communicator.barrier(named("of all"));
  });
  CAPTURE(end);
  CHECK(holds(end,
              "divergence of rank 3: ranks diverge: rank 1: broadcast 'step' of 4 bytes from rank 3 (#0); rank 3: "
              "broadcast 'step' of 8 bytes from rank 3 (#0)"));
  check_all_is_well();
}

TEST_CASE("a failure in one group ends the transfers of the other, or lets them end") {
  for (int round = 0; round < 5; ++round) {
    MpiCommunicator communicator{MPI_COMM_WORLD, patient};
    auto part = communicator.split(consecutive.place(communicator.rank()));
    communicator.barrier(named("all are here"));
    if (process_rank() == 3) part.abort("out of cheese");
    const std::string end = end_of([&] {
      Buffer buffer(2 << 20);
      const zerospan::GatherPart gathered{buffer.data(), buffer.size() / 2};
      for (;;) part.all_gather(named("parameters"), std::span{&gathered, 1});
    });
    CAPTURE(end);
    CHECK(holds(end, "failure of rank 3: rank 3 failed (out of cheese)"));
  }
  check_all_is_well();
}

TEST_CASE("the host's order of ranks is what errors name") {
  MPI_Comm reversed = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, 0, -process_rank(), &reversed);
  {
    MpiCommunicator communicator{reversed, patient};
    auto part = communicator.split(consecutive.place(communicator.rank()));
    CHECK(communicator.rank().value == 3 - process_rank());
    CHECK(part.rank().value == (3 - process_rank()) % 2);
    CHECK(sum_over(part, process_rank()) == (process_rank() < 2 ? 1 : 5));
  }
  MPI_Comm_free(&reversed);
}
