/// A rank that fails in one group fails the ranks of all groups.

#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::CommunicationError;
using zerospan::ThreadCommunicator;
using zerospan_test::Array;
using zerospan_test::Place;

using Parameter = zerospan::PartitionedParameter<Array<float>>;

constexpr int ranks = 4;
constexpr int weights = 4;
constexpr int uses = 3 * 2 * weights;  // of a run of three steps

/// One of the four ranks in two groups: three steps, in which it calls `at(use, weights)` before each use of a weight.
template <class Communicator, class F>
void train(ThreadCommunicator& threads, F at) {
  Communicator communicator{zerospan::split_into_groups(threads, 2)};
  zerospan::ThreadedIoEngine io;
  zerospan_test::Memory<zerospan::ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  zerospan::Placement placement = memory.placement(Place::nvme, Place::host, Place::nvme);
  if constexpr (zerospan::Grouped<Communicator>) placement.group_copies = memory.on_host;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator,      memory.device,
                              placement,          zerospan::AdamW{}, {.persistence_threshold = 0_KiB}};
  std::vector<Parameter> model;
  for (int w = 0; w < weights; ++w) {
    model.emplace_back(engine, "w" + std::to_string(w), zerospan::Shape{5000}, zerospan::init::normal(1));
  }
  int use = 0;
  for (int step = 0; step < 3; ++step) {
    for (const Parameter& weight : model) {
      at(use++, model);
      static_cast<void>(weight.gather(calling_thread));
    }
    for (const Parameter& weight : model) {
      at(use++, model);
      const auto full = weight.gather(calling_thread);
      auto gradient = weight.gradient(calling_thread);
      for (std::size_t i = 0; i < full->size; ++i) gradient->data[i] = full->data[i];
      gradient.commit();
    }
    engine.step();
  }
}

/// What each rank ended with: whom it was told of, -1 for nobody.
template <class Communicator, class F>
std::vector<int> culprits(F at) {
  return zerospan::run_ranks(
      ranks,
      [&](ThreadCommunicator threads) {
        const int rank = threads.rank().value;
        try {
          train<Communicator>(threads, [&](int use, const std::vector<Parameter>& model) { at(rank, use, model); });
        } catch (const CommunicationError& error) {
          return error.culprit().value;
        } catch (const std::domain_error&) {
          threads.abort("a rank's own reason");
          return rank;
        }
        return -1;
      },
      {.timeout = std::chrono::seconds{20}});
}

}  // namespace

TEST_CASE_TEMPLATE("whichever rank throws, and wherever: every rank of every group is told which", Communicator,
                   zerospan::GroupedCommunicator<ThreadCommunicator>,
                   zerospan::HybridCommunicator<ThreadCommunicator>) {
  for (int culprit = 0; culprit < ranks; ++culprit) {
    for (int at = 0; at < uses; at += 5) {
      CAPTURE(culprit);
      CAPTURE(at);
      const auto told = culprits<Communicator>([&](int rank, int use, const std::vector<Parameter>&) {
        if (rank == culprit && use == at) throw std::domain_error{"a rank's own reason"};
      });
      CHECK(told == std::vector<int>(ranks, culprit));
    }
  }
}

TEST_CASE_TEMPLATE("a rank that uses what the others do not fails all, in every group", Communicator,
                   zerospan::GroupedCommunicator<ThreadCommunicator>,
                   zerospan::HybridCommunicator<ThreadCommunicator>) {
  for (int culprit = 0; culprit < ranks; ++culprit) {
    for (int at = 1; at < uses; at += 7) {
      CAPTURE(culprit);
      CAPTURE(at);
      const auto told = culprits<Communicator>([&](int rank, int use, const std::vector<Parameter>& model) {
        if (rank != culprit || use != at) return;
        static_cast<void>(model[static_cast<std::size_t>((use + 2) % weights)].gather(calling_thread));
      });
      for (const int rank : told) CHECK(rank >= 0);
    }
  }
}

TEST_CASE("after all that, training works") {
  const auto told = culprits<zerospan::GroupedCommunicator<ThreadCommunicator>>(
      [](int, int, const std::vector<Parameter>&) {});
  CHECK(told == std::vector<int>(ranks, -1));
}
