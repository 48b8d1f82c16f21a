#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/rank_end.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::Rank;
using zerospan::Shape;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::contains;
using zerospan_test::Memory;
using zerospan_test::Place;
using zerospan_test::Position;
using zerospan_test::rank_end_of;

using End = zerospan_test::RankEnd;
using Parameter = zerospan::PartitionedParameter<Array<float>>;

constexpr zerospan::RunRanksOptions soon{.timeout = std::chrono::milliseconds{300}};

/// What one rank's engine and model are, for scenarios in which ranks misbehave.
struct Rig {
  explicit Rig(ThreadCommunicator& communicator, std::vector<std::size_t> sizes = {3000, 5000, 2000})
      : engine{zerospan::Stage3{}, communicator,
               memory.device,      memory.placement(Place::nvme, Place::host, Place::nvme),
               zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}} {
    for (const std::size_t size : sizes) {
      weights.emplace_back(engine, std::string{"w"} + std::to_string(weights.size()), Shape{size},
                           zerospan::init::normal(1));
    }
  }

  void use(std::size_t i) {
    const auto full = weights[i].gather(calling_thread);
    auto gradient = weights[i].gradient(calling_thread);
    for (std::size_t k = 0; k < full->size; ++k) gradient->data[k] = full->data[k];
    gradient.commit();
  }
  void train_step() {
    for (std::size_t i = 0; i < weights.size(); ++i) use(i);
    engine.step();
  }

  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  zerospan::ZeroEngine<zerospan::Stage3, ThreadCommunicator, zerospan::HostDevice, zerospan::AdamW> engine;
  std::vector<Parameter> weights;
};

/// The same process trains on after whatever happened.
void check_training_works() {
  zerospan::run_ranks(3, [](ThreadCommunicator communicator) {
    Rig rig{communicator};
    rig.train_step();
  });
}

TEST_CASE("a rank returns early") {
  const auto ends = zerospan::run_ranks(
      3,
      [](ThreadCommunicator communicator) {
        return rank_end_of([&] {
          Rig rig{communicator};
          rig.train_step();
          if (communicator.rank() == Rank{1}) return;
          for (int i = 0; i < 3; ++i) rig.train_step();
        });
      },
      soon);
  CHECK(ends[1].kind == End::Kind::well);
  for (const std::size_t rank : {0U, 2U}) {
    CAPTURE(ends[rank].text);
    CHECK(ends[rank].kind == End::Kind::failed);
    CHECK(ends[rank].culprit == 1);
    CHECK(contains(ends[rank].text, "rank 1 returned"));
    CHECK(contains(ends[rank].text, "'w"));
  }
  check_training_works();
}

TEST_CASE("a rank throws") {
  std::array<End, 3> ends;
  const auto run = [&] {
    zerospan::run_ranks(3,
                        [&](ThreadCommunicator communicator) {
                          const auto scenario = [&] {
                            Rig rig{communicator};
                            rig.train_step();
                            if (communicator.rank() == Rank{2}) throw std::domain_error{"my own reasons"};
                            for (int i = 0; i < 3; ++i) rig.train_step();
                          };
                          if (communicator.rank() == Rank{2}) return scenario();
                          ends[static_cast<std::size_t>(communicator.rank().value)] = rank_end_of(scenario);
                        },
                        {.timeout = std::chrono::seconds{30}});
  };
  CHECK_THROWS_WITH_AS(run(), "rank 2: my own reasons", std::domain_error);
  for (const std::size_t rank : {0U, 1U}) {
    CAPTURE(ends[rank].text);
    CHECK(ends[rank].kind == End::Kind::failed);
    CHECK(ends[rank].culprit == 2);
    CHECK(contains(ends[rank].text, "rank 2 failed (its engine was destroyed by an exception)"));
  }
  check_training_works();
}

TEST_CASE("a rank stalls") {
  std::latch others_have_failed{2};
  const auto ends = zerospan::run_ranks(
      3,
      [&](ThreadCommunicator communicator) {
        const bool stalls = communicator.rank() == Rank{1};
        const End end = rank_end_of([&] {
          Rig rig{communicator};
          rig.train_step();
          if (stalls) others_have_failed.wait();
          rig.train_step();
          rig.train_step();
        });
        if (!stalls) others_have_failed.count_down();
        return end;
      },
      soon);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::timeout);
    CHECK(end.culprit == 1);
    CHECK(contains(end.text, "rank 1 did not arrive at "));
    CHECK(contains(end.text, "within 300 ms"));
  }
  check_training_works();
}

TEST_CASE("ranks that declare different parameters are told so") {
  const auto ends = zerospan::run_ranks(
      3,
      [](ThreadCommunicator communicator) {
        return rank_end_of([&] {
          Rig rig{communicator, communicator.rank() == Rank{1} ? std::vector<std::size_t>{3000, 9000}
                                                               : std::vector<std::size_t>{3000, 5000}};
          for (int i = 0; i < 3; ++i) rig.train_step();
        });
      },
      soon);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(contains(end.text, "parameter 1 is w1 float32 [5000]"));
    CHECK(contains(end.text, "on rank 0, and w1 float32 [9000]"));
    CHECK(contains(end.text, "on rank 1"));
  }
  check_training_works();
}

TEST_CASE("ranks that use parameters in different orders are told so") {
  const auto ends = zerospan::run_ranks(
      3,
      [](ThreadCommunicator communicator) {
        return rank_end_of([&] {
          Rig rig{communicator};
          rig.train_step();
          const bool differs = communicator.rank() == Rank{2};
          static_cast<void>(rig.weights[differs ? 1 : 0].gather(calling_thread));
          static_cast<void>(rig.weights[differs ? 0 : 1].gather(calling_thread));
          rig.train_step();
        });
      },
      soon);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::divergence);
    CHECK(contains(end.text, "rank 2: "));
  }
  check_training_works();
}

TEST_CASE("a rank that makes a step more is told so, or left alone") {
  const auto ends = zerospan::run_ranks(
      2,
      [](ThreadCommunicator communicator) {
        return rank_end_of([&] {
          Rig rig{communicator};
          rig.train_step();
          if (communicator.rank() == Rank{1}) rig.engine.step();
          for (int i = 0; i < 3; ++i) rig.train_step();
        });
      },
      soon);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::divergence);
    CHECK(contains(end.text, "all-reduce 'the gradient norm'"));
  }
  check_training_works();
}

TEST_CASE("a rank without a gradient that others have, and that does not skip, is told so") {
  const auto ends = zerospan::run_ranks(
      2,
      [](ThreadCommunicator communicator) {
        return rank_end_of([&] {
          Rig rig{communicator};
          for (int step = 0; step < 3; ++step) {
            rig.use(0);
            if (communicator.rank() == Rank{0}) {
              rig.use(1);
            } else {
              static_cast<void>(rig.weights[1].gather(calling_thread));
            }
            rig.engine.step();
          }
        });
      },
      soon);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::divergence);
    CHECK(contains(end.text, "reduce-scatter 'w1'"));
  }
  check_training_works();
}

/// Which ranks have a gradient for a use.
bool contributes(std::size_t use, const Position& at) {
  return (static_cast<std::size_t>(at.rank) + use + at.micro_batch + static_cast<std::size_t>(at.step)) % 3 != 0;
}

/// Trains with gradients on some ranks only; the others skip.
template <zerospan::Element E>
zerospan_test::TrainingResult train_skipping(const Configuration& c) {
  return zerospan_test::join_results(zerospan::run_ranks(c.training.ranks, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 16_MiB, 16_MiB};
    zerospan_test::AnyEngine engine{c.stage,
                                    communicator,
                                    memory.device,
                                    memory.placement(c.parameters, c.gradients, c.optimizer),
                                    c.training.optimizer,
                                    zerospan_test::engine_options(c)};
    const zerospan_test::ToyModel<E> model{engine};
    zerospan_test::TrainingResult result;
    for (std::int64_t step = 0; step < c.steps; ++step) {
      for (std::size_t micro = 0; micro < c.training.micro_batches; ++micro) {
        const Position at{communicator.rank().value, step, micro};
        result.losses.push_back(std::bit_cast<std::uint64_t>(model.forward(zerospan_test::full_route(), at)));
        for (std::size_t use = 0; use < zerospan_test::use_count; ++use) {
          const auto full = model[use].gather(calling_thread);
          if (!zerospan_test::has_gradient(use, step)) continue;
          if (!contributes(use, at)) {
            model[use].skip();
            continue;
          }
          auto gradient = model[use].gradient(calling_thread);
          for (std::size_t k = 0; k < full->size; ++k) {
            gradient->data[k] =
                E{zerospan_test::gradient_of(static_cast<float>(full->data[k]), zerospan_test::noise(use, at, k))};
          }
          gradient.commit();
        }
      }
      result.norms.push_back(engine.step().gradient_norm);
    }
    result.hash = zerospan_test::hash_masters(engine);
    return result;
  }));
}

TEST_CASE_TEMPLATE("a rank that skips joins with zeros", E, float, zerospan::bfloat16, zerospan::float16) {
  zerospan_test::Sample sample{3};
  for (const int stage : {0, 1, 2, 3}) {
    for (const std::size_t micro_batches : {1U, 3U}) {
      if (!sample.takes()) continue;
      Configuration c;
      c.stage = stage;
      c.gradients = stage >= 2 ? Place::nvme : Place::host;
      c.training.ranks = 3;
      c.training.micro_batches = micro_batches;
      c.persistence_threshold = 0_KiB;
      CAPTURE(c.describe());
      zerospan_test::ReplicatedTraining<E> oracle{c.training, contributes};
      for (int step = 0; step < c.steps; ++step) oracle.step(zerospan_test::full_route());
      CHECK(train_skipping<E>(c) == oracle.result());
    }
  }
}

TEST_CASE("a parameter that no rank uses is not updated, and its update count stands still") {
  // "sometimes" has gradients in odd steps only, "idle" in none: the oracle counts updates a parameter.
  Configuration c;
  c.steps = 6;
  c.training.ranks = 2;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  CHECK(zerospan_test::train(c) == zerospan_test::train_replicated(c.training, c.type, c.steps));
}

TEST_CASE("an infinite or undefined gradient on one rank skips the step on all") {
  constexpr std::array bad{std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity()};
  for (const int stage : {0, 1, 2, 3}) {
    for (const float value : bad) {
      CAPTURE(stage);
      CAPTURE(value);
      zerospan::run_ranks(3, [&](ThreadCommunicator communicator) {
        ThreadedIoEngine io;
        Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
        const Place disk = stage >= 2 ? Place::nvme : Place::host;
        zerospan_test::AnyEngine engine{stage,
                                        communicator,
                                        memory.device,
                                        memory.placement(Place::device, disk, disk),
                                        zerospan::AdamW{},
                                        zerospan::EngineOptions{.micro_batches = 2}};
        const Parameter a{engine, "a", {3000}, zerospan::init::normal(1)};
        const Parameter b{engine, "b", {20000}, zerospan::init::normal(1)};
        const auto step = [&](float poison) {
          for (int micro = 0; micro < 2; ++micro) {
            for (const Parameter* parameter : {&a, &b}) {
              auto gradient = parameter->gradient(calling_thread);
              std::fill_n(gradient->data, gradient->size, 0.5F);
              if (communicator.rank() == Rank{1} && parameter == &b && micro == 0) gradient->data[19999] = poison;
              gradient.commit();
            }
          }
          return engine.step();
        };
        const std::uint64_t before = zerospan_test::hash_masters(engine);
        bool ok = step(value).skipped;
        ok = ok && zerospan_test::hash_masters(engine) == before;
        const zerospan::StepOutcome next = step(0.5F);  // the first update: the skipped step does not count as one
        ok = ok && !next.skipped && next.step == 2 && next.gradient_norm == std::sqrt(23000 * 9.0) * (1.0 / 6);
        CHECK((ok && zerospan_test::hash_masters(engine) != before));
      });
    }
  }
}

}  // namespace
