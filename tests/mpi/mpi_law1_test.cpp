/// Processes train to the bits that threads train to.

#include <doctest/doctest.h>

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/mpi_world.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan_test::Configuration;
using zerospan_test::Place;
using zerospan_test::process_count;
using zerospan_test::TrainingResult;

TrainingResult joined(const TrainingResult& own) {
  std::vector<TrainingResult> results;
  const auto hashes = zerospan_test::share(MPI_COMM_WORLD, own.hash);
  const auto norms = zerospan_test::share(MPI_COMM_WORLD, own.norms);
  const auto losses = zerospan_test::share(MPI_COMM_WORLD, own.losses);
  for (std::size_t i = 0; i < hashes.size(); ++i) results.push_back({hashes[i], norms[i], losses[i]});
  return zerospan_test::join_results(results);
}

zerospan::MpiCommunicator world() {
  return zerospan::MpiCommunicator{MPI_COMM_WORLD, {.timeout = std::chrono::seconds{60}}};
}

TrainingResult train_on_processes(const Configuration& c) {
  zerospan::MpiCommunicator communicator = world();
  return joined(zerospan_test::train_on(communicator, c));
}

/// In groups of two.
template <class Communicator>
TrainingResult train_in_groups(Communicator whole, const Configuration& c) {
  zerospan::GroupedCommunicator communicator{zerospan::split_into_groups(whole, 2)};
  return zerospan_test::train_on(communicator, whole.rank(), c);
}

void check_law1(Configuration c) {
  c.training.ranks = process_count();
  CAPTURE(c.describe());
  const TrainingResult on_threads = zerospan_test::train(c);
  const TrainingResult on_processes = train_on_processes(c);
  CHECK(on_processes.hash == on_threads.hash);
  CHECK(on_processes.norms == on_threads.norms);
  CHECK(on_processes.losses == on_threads.losses);
}

}  // namespace

TEST_CASE("every stage trains to the same bits on processes as on threads") {
  for (int stage = 0; stage <= 3; ++stage) check_law1({.stage = stage});
}

TEST_CASE("16-bit parameters on disk, micro-batches, a tight budget and owners train to the same bits") {
  Configuration c{.type = zerospan::ElementType::bfloat16,
                  .parameters = Place::nvme,
                  .gradients = Place::host,
                  .optimizer = Place::nvme,
                  .budget = zerospan_test::Budget::tight,
                  .persistence_threshold = zerospan::Bytes{0}};
  c.training.micro_batches = 2;
  check_law1(c);
  c.partition = zerospan::Owners{};
  c.type = zerospan::ElementType::float16;
  check_law1(c);
}

TEST_CASE("processes in groups, with copies in each, train to the bits of threads in groups") {
  Configuration c{.type = zerospan::ElementType::bfloat16,
                  .parameters = Place::nvme,
                  .optimizer = Place::host,
                  .persistence_threshold = zerospan::Bytes{0},
                  .group_copies = Place::host};
  c.training.ranks = process_count();
  const TrainingResult on_threads = zerospan_test::join_results(zerospan::run_ranks(
      process_count(), [&](zerospan::ThreadCommunicator threads) { return train_in_groups(std::move(threads), c); }));
  const TrainingResult on_processes = joined(train_in_groups(world(), c));
  CHECK(on_processes.hash == on_threads.hash);
  CHECK(on_processes.norms == on_threads.norms);
  CHECK(on_processes.losses == on_threads.losses);
}
