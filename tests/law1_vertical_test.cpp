// Micro-batches that go through the model together, layer by layer: a training like any other, to the bit, and with
// reads that do not grow with the micro-batches.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/replicated_training.hpp"
#include "support/sample.hpp"
#include "support/toy_model.hpp"
#include "support/training_matrix.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::Commits;
using zerospan::ElementType;
using zerospan::float16;
using zerospan::LeaseError;
using zerospan::Pass;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using zerospan_test::Budget;
using zerospan_test::Choice;
using zerospan_test::Configuration;
using zerospan_test::configuration_of;
using zerospan_test::dimensions;
using zerospan_test::Memory;
using zerospan_test::MicroBatchOrder;
using zerospan_test::Needs;
using zerospan_test::Place;
using zerospan_test::Prefetch;
using zerospan_test::Route;
using zerospan_test::ToyModel;
using zerospan_test::TrainingResult;

TEST_CASE("every pair of choices trains layer by layer to the bits of the oracle") {
  zerospan_test::compare_all(zerospan_test::pairwise_matrix(20261129), [](Configuration c) {
    c.order = MicroBatchOrder::layer_by_layer;
    return zerospan_test::train(c);
  });
}

/// Calls `f(engine, communicator)` on each rank of a configuration. @return What it returns, by rank.
template <class F>
auto on_ranks(const Configuration& c, F f) {
  return zerospan::run_ranks(
      c.training.ranks,
      [&](ThreadCommunicator communicator) {
        ThreadedIoEngine io;
        const Needs needs{c, communicator.rank()};
        const bool is_tight = c.budget == Budget::tight;
        Memory<ThreadedIoEngine> memory{io, is_tight ? needs.device() : 64_MiB, is_tight ? needs.host() : 64_MiB};
        const zerospan_test::DiskStack disk{io, memory, c.disk};
        const auto tier = [&](Place place) { return place == Place::nvme ? disk.tier() : memory.tier(place); };
        AnyEngine engine{c.stage,
                         communicator,
                         memory.device,
                         zerospan::Placement{tier(c.parameters), tier(c.gradients), tier(c.optimizer)},
                         c.training.optimizer,
                         zerospan_test::engine_options(c)};
        return f(engine, communicator);
      },
      {.timeout = std::chrono::seconds{30}});
}

/// Some of the uses, in any order.
Route draw_route(std::mt19937_64& random) {
  Route route = zerospan_test::full_route();
  std::ranges::shuffle(route, random);
  route.resize(1 + random() % route.size());
  return route;
}

Configuration draw(std::mt19937_64& random) {
  while (true) {
    Choice choice{};
    for (std::size_t d = 0; d < choice.size(); ++d) choice[d] = random() % dimensions[d];
    Configuration c = configuration_of(choice);
    c.training.micro_batches = 1 + random() % 3;
    c.training.seed = random() % 1000;
    c.order = MicroBatchOrder::layer_by_layer;
    if (c.is_possible()) return c;
  }
}

/// The same training without an engine, and without partitions.
template <zerospan::Element E>
TrainingResult train_replicated(const Configuration& c, const Route& route) {
  zerospan_test::ReplicatedTraining<E> training{c.training};
  for (int step = 0; step < c.steps; ++step) training.step(route);
  return training.result();
}

void compare(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  for (std::size_t i = 0; i < count; ++i) {
    const Configuration c = draw(random);
    const Route route = draw_route(random);
    CAPTURE(c.describe());
    CAPTURE(i);
    TrainingResult actual;
    REQUIRE_NOTHROW(actual = zerospan_test::join_results(on_ranks(c, [&](AnyEngine& engine, auto& communicator) {
                      return zerospan_test::train_rank(engine, communicator.rank(), c, route);
                    })));
    CHECK(actual == (c.type == ElementType::float32    ? train_replicated<float>(c, route)
                     : c.type == ElementType::bfloat16 ? train_replicated<bfloat16>(c, route)
                                                       : train_replicated<float16>(c, route)));
  }
}

TEST_CASE("models of any layers train layer by layer to the bits of replicated training") {
  compare(zerospan_test::is_sanitized ? 8 : 40, 1);
}

TEST_CASE("many more of them train to the bits of replicated training" * doctest::skip()) { compare(400, 2); }

/// Bytes that all ranks read.
struct Reads {
  std::uint64_t step = 0;  ///< In a step.
  std::uint64_t once = 0;  ///< For each use's parameter once.
};

/// Of a training with nothing but parameters on the disk, and nothing of them in memory: neither what was fetched ahead
/// nor what an update has left in the staging ring.
Reads reads_of(int ranks, std::size_t micro_batches, MicroBatchOrder order) {
  Configuration c;
  c.training.ranks = ranks;
  c.training.micro_batches = micro_batches;
  c.parameters = Place::nvme;
  c.gradients = c.optimizer = Place::host;
  c.prefetch = Prefetch::off;
  c.persistence_threshold = 0_KiB;
  const auto by_rank = on_ranks(c, [&](AnyEngine& engine, auto& communicator) {
    const ToyModel<float> model{engine};
    const Route route = zerospan_test::full_route();
    const auto bytes_read_by = [&](auto f) {
      engine.synchronize();
      const std::uint64_t before = engine.statistics().bytes_read;
      f();
      engine.synchronize();
      return engine.statistics().bytes_read - before;
    };
    const auto make_step = [&](std::int64_t step) {
      std::vector<zerospan_test::Position> all;
      for (std::size_t m = 0; m < micro_batches; ++m) all.push_back({communicator.rank().value, step, m});
      const std::size_t at_once = order == MicroBatchOrder::layer_by_layer ? micro_batches : 1;
      for (std::size_t first = 0; first < micro_batches; first += at_once) {
        engine.begin(Pass::training);
        model.forward(route, std::span{all}.subspan(first, at_once));
        model.backward(route, std::span{all}.subspan(first, at_once));
      }
      engine.step();
    };
    Reads reads;
    make_step(1);
    reads.step = bytes_read_by([&] { make_step(2); });
    CHECK(bytes_read_by([&] { make_step(3); }) == reads.step);
    reads.once = bytes_read_by([&] {
      engine.begin(Pass::evaluation);
      model.forward(route, {communicator.rank().value, 4, 0});
    });
    return reads;
  });
  Reads all;
  for (const Reads& of_rank : by_rank) {
    all.step += of_rank.step;
    all.once += of_rank.once;
  }
  return all;
}

TEST_CASE("layer by layer each use reads its parameter twice a step, and else twice a micro-batch, to the byte") {
  std::size_t elements = 0;
  for (std::size_t use = 0; use < zerospan_test::use_count; ++use) {
    elements += zerospan_test::layers[zerospan_test::layer_of(use)].elements;
  }
  for (const int ranks : {1, 2}) {
    for (const std::size_t micro_batches : {1U, 2U, 3U}) {
      CAPTURE(ranks);
      CAPTURE(micro_batches);
      const Reads together = reads_of(ranks, micro_batches, MicroBatchOrder::layer_by_layer);
      const Reads in_turn = reads_of(ranks, micro_batches, MicroBatchOrder::one_by_one);
      CHECK(together.once >= elements * sizeof(float));
      CHECK(together.once == in_turn.once);
      CHECK(together.step == 2 * together.once);
      CHECK(in_turn.step == 2 * micro_batches * in_turn.once);
    }
  }
}

/// Two weights, whose gradients are their values.
struct Weights {
  using Parameter = zerospan::PartitionedParameter<Array<float>>;

  explicit Weights(AnyEngine& engine)
      : a{engine, "a", {5000}, zerospan::init::normal(1.0F)}, b{engine, "b", {3000}, zerospan::init::normal(1.0F)} {}

  static void commit(const Parameter& parameter, std::size_t micro_batches) {
    const auto full = parameter.gather(calling_thread);
    for (std::size_t i = 0; i < micro_batches; ++i) {
      auto gradient = parameter.gradient(calling_thread);
      std::copy_n(full->data, full->size, gradient->data);
      gradient.commit();
    }
  }

  Parameter a;
  Parameter b;
};

Configuration of_three_micro_batches(int ranks) {
  Configuration c;
  c.training.ranks = ranks;
  c.training.micro_batches = 3;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  c.persistence_threshold = 0_KiB;
  return c;
}

TEST_CASE("a loop over micro-batches that ends early for a parameter is refused at the step: nothing has changed") {
  for (const int ranks : {1, 2}) {
    on_ranks(of_three_micro_batches(ranks), [&](AnyEngine& engine, auto&) {
      const Weights weights{engine};
      const std::uint64_t before = zerospan_test::hash_masters(engine);
      Weights::commit(weights.a, 3);
      Weights::commit(weights.b, 2);
      bool ok = false;
      try {
        engine.step({.commits = Commits::in_every_micro_batch});
      } catch (const LeaseError& error) {
        const std::string text = error.what();
        ok = text.find("the gradient of b was committed 2 times") != std::string::npos &&
             text.find("step() of 3 micro-batches") != std::string::npos;
      }
      CHECK(ok);
      weights.b.skip();  // the third has none
      CHECK(engine.step({.commits = Commits::in_every_micro_batch}).step == 1);
      CHECK(zerospan_test::hash_masters(engine) != before);

      Weights::commit(weights.a, 1);  // b is not used at all: it is not updated
      CHECK_THROWS_AS(engine.step({.commits = Commits::in_every_micro_batch}), LeaseError);
      CHECK(engine.step({.micro_batches = 1, .commits = Commits::in_every_micro_batch}).step == 2);
      Weights::commit(weights.a, 3);
      Weights::commit(weights.b, 2);
      CHECK(engine.step().step == 3);  // who does not say so may have gradients in some micro-batches alone
      return 0;
    });
  }
}

TEST_CASE("a micro-batch more than the step has is refused where its gradient is leased") {
  on_ranks(of_three_micro_batches(1), [&](AnyEngine& engine, auto&) {
    const Weights weights{engine};
    Weights::commit(weights.a, 3);
    CHECK_THROWS_WITH_AS(Weights::commit(weights.a, 1),
                         doctest::Contains("the gradient of a was committed 3 times in this step"), LeaseError);
    return 0;
  });
}

TEST_CASE("ranks with different numbers of micro-batches for a parameter diverge, and say what each has called") {
  const auto train = [&] {
    on_ranks(of_three_micro_batches(2), [&](AnyEngine& engine, auto& communicator) {
      const Weights weights{engine};
      const zerospan::Rank rank = communicator.rank();
      Weights::commit(weights.a, rank.value == 0 ? 3 : 2);
      Weights::commit(weights.b, 3);
      engine.step({.commits = Commits::in_every_micro_batch});
      return 0;
    });
  };
  CHECK_THROWS_WITH_AS(train(), doctest::Contains("reduce-scatter 'a'"), zerospan::DivergenceError);
}

}  // namespace
