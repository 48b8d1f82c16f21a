#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_gpu_run.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::ElementType;
using zerospan::ThreadCommunicator;
using zerospan_test::Configuration;
using zerospan_test::Place;
using zerospan_test::TrainingResult;

using Grouped = zerospan::GroupedCommunicator<ThreadCommunicator>;
using Hybrid = zerospan::HybridCommunicator<ThreadCommunicator>;
static_assert(zerospan::TrainingCommunicator<Grouped> && zerospan::Grouped<Grouped> && !zerospan::Replicates<Grouped>);
static_assert(zerospan::TrainingCommunicator<Hybrid> && zerospan::Replicates<Hybrid> && !zerospan::Grouped<Hybrid>);

/// A training run on threads in groups.
template <class Communicator>
TrainingResult train(const Configuration& c, int ranks_per_group) {
  return zerospan_test::join_results(
      zerospan::run_ranks(c.training.ranks,
                          [&](ThreadCommunicator threads) {
                            Communicator communicator{zerospan::split_into_groups(threads, ranks_per_group)};
                            return zerospan_test::train_on(communicator, threads.rank(), c);
                          },
                          {.timeout = std::chrono::seconds{30}}));
}

void check_equal(const TrainingResult& actual, const TrainingResult& expected) {
  CHECK(actual.hash == expected.hash);
  CHECK(actual.norms == expected.norms);
  CHECK(actual.losses == expected.losses);
}

Configuration configuration(ElementType type, std::size_t micro_batches, int ranks) {
  Configuration c{.type = type};
  c.training.ranks = ranks;
  c.training.micro_batches = micro_batches;
  c.training.max_gradient_norm = 1.0F;
  c.persistence_threshold = zerospan::Bytes{1024};
  return c;
}

/// Ways to place the states of stage 3.
struct Way {
  int stage;
  Place parameters;
  Place rest;
  std::optional<Place> group_copies;
};

TEST_CASE("whatever is divided among groups and however, training gives the same bits") {
  const std::vector<Way> ways{
      {1, Place::device, Place::device, {}},          {2, Place::device, Place::host, {}},
      {3, Place::device, Place::device, {}},          {3, Place::nvme, Place::nvme, {}},
      {3, Place::device, Place::host, Place::device}, {3, Place::host, Place::nvme, Place::host},
      {3, Place::nvme, Place::nvme, Place::nvme},     {3, Place::nvme, Place::host, Place::device}};
  zerospan_test::Sample sample{7};
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    for (const std::size_t micro_batches : {1U, 2U}) {
      for (const int ranks_per_group : {2, 3}) {
        Configuration c = configuration(type, micro_batches, 2 * ranks_per_group);
        c.stage = 0;
        const TrainingResult oracle = train<Grouped>(c, ranks_per_group);
        check_equal(train<Hybrid>(c, ranks_per_group), oracle);
        for (const Way& way : ways) {
          if (!sample.takes()) continue;
          c.stage = way.stage;
          c.parameters = way.parameters;
          c.gradients = c.optimizer = way.rest;
          c.group_copies = way.group_copies;
          CAPTURE(c.describe());
          CAPTURE(ranks_per_group);
          check_equal(train<Grouped>(c, ranks_per_group), oracle);
          if (!way.group_copies) check_equal(train<Hybrid>(c, ranks_per_group), oracle);
        }
      }
    }
  }
}

/// A training run on threads in groups, which share a GPU.
TrainingResult train_on_fake_gpu(const Configuration& c, int ranks_per_group) {
  const auto gpu = std::make_shared<zerospan_test::FakeGpu>();
  return zerospan_test::join_results(zerospan::run_ranks(
      c.training.ranks,
      [&](ThreadCommunicator threads) {
        zerospan::ThreadedIoEngine io;
        zerospan_test::Memory<zerospan::ThreadedIoEngine, zerospan_test::FakeDevice> memory{
            io, [&] { return zerospan_test::FakeDevice{zerospan_test::FakeRuntime{gpu}}; }};
        zerospan_test::FakeCommunicator whole{threads.duplicate(), memory.device};
        zerospan::GroupedCommunicator communicator{zerospan::split_into_groups(whole, ranks_per_group)};
        return zerospan_test::train_on(io, memory, communicator, threads.rank(), c, zerospan_test::FakeCompute{gpu});
      },
      {.timeout = std::chrono::seconds{30}}));
}

TEST_CASE("so it does on streams, with memory of the device's own") {
  Configuration c = configuration(ElementType::bfloat16, 2, 4);
  c.stage = 0;
  const TrainingResult oracle = train<Grouped>(c, 2);
  c.stage = 3;
  check_equal(train_on_fake_gpu(c, 2), oracle);
  zerospan_test::Sample sample{3};
  for (const Place place : {Place::device, Place::host, Place::nvme}) {
    if (!sample.takes()) continue;
    c.group_copies = c.parameters = place;
    CAPTURE(c.describe());
    check_equal(train_on_fake_gpu(c, 2), oracle);
  }
}

/// A training run whose gathers and reductions across groups are quantized.
TrainingResult train_quantized(const Configuration& c, int ranks_per_group) {
  return zerospan_test::join_results(zerospan::run_ranks(
      c.training.ranks,
      [&](ThreadCommunicator threads) {
        using Across = zerospan::QuantizedCommunicator<ThreadCommunicator, zerospan::HostDevice>;
        zerospan::HostDevice scratch;
        auto [within, across] = zerospan::split_into_groups(threads, ranks_per_group);
        zerospan::GroupedCommunicator communicator{zerospan::CommunicatorLevels<ThreadCommunicator, Across>{
            std::move(within),
            Across{std::move(across),
                   scratch,
                   {.gather = zerospan::QuantizedType::int8, .reduce = zerospan::QuantizedType::int4}}}};
        return zerospan_test::train_on(communicator, threads.rank(), c);
      },
      {.timeout = std::chrono::seconds{30}}));
}

TEST_CASE("what is quantized is the same bits everywhere, whoever keeps it") {
  Configuration c = configuration(ElementType::bfloat16, 2, 4);
  c.parameters = Place::host;
  const TrainingResult oracle = train_quantized(c, 2);
  CHECK(oracle.hash != train<Grouped>(c, 2).hash);
  for (const Place place : {Place::device, Place::host, Place::nvme}) {
    c.group_copies = place;
    CAPTURE(c.describe());
    check_equal(train_quantized(c, 2), oracle);
  }
}

TEST_CASE("a group of one rank, and one group of all, are training without groups") {
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    Configuration c = configuration(type, 1, 4);
    const TrainingResult oracle = zerospan_test::train(c);
    for (const int ranks_per_group : {1, 4}) {
      CAPTURE(ranks_per_group);
      check_equal(train<Grouped>(c, ranks_per_group), oracle);
      check_equal(train<Hybrid>(c, ranks_per_group), oracle);
    }
  }
}

TEST_CASE("two hops round once more than one") {
  Configuration c = configuration(ElementType::float32, 1, 4);
  const TrainingResult flat = zerospan_test::train(c);
  const TrainingResult grouped = train<Grouped>(c, 2);
  REQUIRE(flat.norms.size() == grouped.norms.size());
  for (std::size_t i = 0; i < flat.norms.size(); ++i) {
    CHECK(std::abs(grouped.norms[i] - flat.norms[i]) <= 1e-6 * flat.norms[i]);
  }
}

}  // namespace
