#include <doctest/doctest.h>

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

#include "support/forked.hpp"
#include "support/heap.hpp"
#include "support/mpi_world.hpp"
#include "support/rank_end.hpp"

namespace {

using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::MpiCommunicator;
using zerospan::MpiOptions;
using zerospan_test::heap_growth;
using zerospan_test::process_rank;

constexpr MpiOptions patient{.timeout = std::chrono::seconds{60}};

constexpr Collective named(const char* name) { return {calling_thread, name}; }

}  // namespace

#if !defined(ZEROSPAN_SANITIZED)
TEST_CASE("communicators that have ended leave nothing behind in those that go on") {
  MpiCommunicator ranks{MPI_COMM_WORLD, patient};
  constexpr std::ptrdiff_t most = 64 << 10;  // of MPI's own; 18,000 mails were 100 MiB

  CHECK(heap_growth(20'000, [&](int) {
          MpiCommunicator duplicate = ranks.duplicate();
          duplicate.barrier(named("one life"));
        }) < most);
  CHECK(heap_growth(2'000, [&](int i) {
          MpiCommunicator group = ranks.split({process_rank() % 2, process_rank()});
          if (i % 2 == 0) group.barrier(named("one life"));
        }) < most);

  std::optional<MpiCommunicator> latest;  // made before its predecessor ends
  CHECK(heap_growth(2'000, [&](int) { latest.emplace(ranks.duplicate()); }) < most);
}
#endif

TEST_CASE("a communicator is of no use in a forked process, and of all its use in the one that forked") {
  MpiCommunicator ranks{MPI_COMM_WORLD, patient};
  ranks.barrier(named("all are here"));
  CHECK(zerospan_test::is_true_in_fork([&] {
    const auto end = zerospan_test::rank_end_of([&] { ranks.barrier(named("in the child")); });
    ranks.abort("the child's own business");
    const std::string rank = "rank " + std::to_string(process_rank());
    MpiCommunicator{std::move(ranks)};  // ends without MPI
    return end.kind == zerospan_test::RankEnd::Kind::failed && end.culprit == process_rank() &&
           end.text == rank + " uses a communicator after a fork: it stays with the process that made it";
  }));
  CHECK_NOTHROW(ranks.barrier(named("all are well")));
}
