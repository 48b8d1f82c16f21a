#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Pass;
using zerospan::PipelineCounters;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Budget;
using zerospan_test::Configuration;
using zerospan_test::full_route;
using zerospan_test::Memory;
using zerospan_test::Place;
using zerospan_test::Position;
using zerospan_test::Route;
using zerospan_test::TrainingResult;

/// The route of each step.
using Itinerary = std::function<Route(std::int64_t step)>;

Route early_exit() {
  Route route = full_route();
  route.resize(6);
  return route;
}

Route backwards() {
  Route route = full_route();
  std::ranges::reverse(route);
  return route;
}

Configuration on_disk(int ranks, Budget budget) {
  Configuration c;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  c.persistence_threshold = 0_KiB;
  c.training.ranks = ranks;
  c.budget = budget;
  return c;
}

enum class Evaluation : std::uint8_t { none, announced, unannounced, announced_and_left_out };

struct Journey {
  TrainingResult result;
  std::vector<PipelineCounters> counters;  ///< After each step, of rank 0.
};

Journey travel(const Configuration& c, const Itinerary& itinerary, Evaluation evaluation = Evaluation::none) {
  Journey journey;
  journey.result =
      zerospan_test::join_results(zerospan::run_ranks(c.training.ranks, [&](ThreadCommunicator communicator) {
        ThreadedIoEngine io;
        const zerospan_test::Needs needs{c, communicator.rank()};
        const bool is_tight = c.budget == Budget::tight;
        Memory<ThreadedIoEngine> memory{io, is_tight ? needs.device() : 4_MiB, is_tight ? needs.host() : 4_MiB};
        zerospan::ZeroEngine engine{zerospan::Stage3{},   communicator,
                                    memory.device,        memory.placement(c.parameters, c.gradients, c.optimizer),
                                    c.training.optimizer, zerospan_test::engine_options(c)};
        const zerospan_test::ToyModel<float> model{engine};
        const int rank = communicator.rank().value;
        TrainingResult result;
        for (std::int64_t step = 0; step < c.steps; ++step) {
          if (evaluation == Evaluation::announced_and_left_out) {
            engine.begin(Pass::evaluation);
            engine.begin(Pass::training);
          } else if (evaluation != Evaluation::none && step % 2 == 1) {
            if (evaluation == Evaluation::announced) engine.begin(Pass::evaluation);
            for (const std::size_t use : full_route()) {
              const auto full = model[use].gather(zerospan::calling_thread);
              if (!(zerospan_test::loss_of(full->data, use, {rank, step, 0}) < 1e9)) throw std::logic_error{"loss"};
            }
            if (evaluation == Evaluation::announced) engine.begin(Pass::training);
          }
          for (std::size_t micro = 0; micro < c.training.micro_batches; ++micro) {
            const Position at{rank, step, micro};
            const Route route = itinerary(step);
            result.losses.push_back(std::bit_cast<std::uint64_t>(model.forward(route, at)));
            model.backward(route, at);
          }
          result.norms.push_back(engine.step().gradient_norm);
          if (rank == 0) journey.counters.push_back(engine.statistics().prefetch);
        }
        result.hash = zerospan_test::hash_masters(engine);
        return result;
      }));
  return journey;
}

TrainingResult expected(const Configuration& c, const Itinerary& itinerary) {
  zerospan_test::ReplicatedTraining<float> training{c.training};
  for (std::int64_t step = 0; step < c.steps; ++step) training.step(itinerary(step));
  return training.result();
}

/// What happened between two steps.
PipelineCounters between(const Journey& journey, std::size_t before, std::size_t after) {
  const PipelineCounters& a = journey.counters[before];
  const PipelineCounters& b = journey.counters[after];
  return {b.hits - a.hits,       b.misses - a.misses, b.mended - a.mended,
          b.dropped - a.dropped, b.kept - a.kept,     b.plans - a.plans};
}

TEST_CASE("one path is prefetched from its second pass on") {
  Configuration c = on_disk(2, Budget::roomy);
  c.steps = 8;
  const Itinerary itinerary = [](std::int64_t) { return early_exit(); };
  const Journey journey = travel(c, itinerary);
  CHECK(journey.result == expected(c, itinerary));
  CHECK(journey.counters[0].hits == 0);
  CHECK(journey.counters[0].misses > 0);
  for (std::size_t step = 1; step < 8; ++step) {
    const PipelineCounters passed = between(journey, step - 1, step);
    CHECK(passed.hits + passed.kept == journey.counters[0].misses);
    CHECK(passed.kept > 0);
    CHECK(passed.misses == 0);
    CHECK(passed.mended == 0);
    CHECK(passed.dropped == 0);
  }
}

/// Trains layers one after the other, there and back, and the engine ends. @return Bytes read from their tier.
std::size_t bytes_read_there_and_back(zerospan::Bytes device_budget, int steps) {
  constexpr std::size_t layers = 6;
  constexpr std::size_t elements = 16384;
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, device_budget, 4_MiB};
  zerospan::SelfCommunicator self;
  {
    zerospan::ZeroEngine engine{
        zerospan::Stage3{}, self,
        memory.device,      memory.placement(Place::nvme, Place::host, Place::host),
        zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .prefetch = 128_KiB}};
    std::vector<zerospan::PartitionedParameter<zerospan_test::Array<float>>> model;
    for (std::size_t l = 0; l < layers; ++l) {
      model.emplace_back(engine, std::to_string(l), zerospan::Shape{elements}, zerospan::init::ones());
    }
    for (int step = 0; step < steps; ++step) {
      for (const auto& layer : model) static_cast<void>(layer.gather(zerospan::calling_thread));
      for (auto layer = model.rbegin(); layer != model.rend(); ++layer) {
        static_cast<void>(layer->gather(zerospan::calling_thread));
        auto gradient = layer->gradient(zerospan::calling_thread);
        std::fill_n(gradient->data, elements, 1.0F);
        gradient.commit();
      }
      engine.step();
      engine.synchronize();  // of the new values nothing stays in staging memory
    }
  }
  return memory.on_nvme.counters().read.count;
}

TEST_CASE("what memory holds is read once a step, and not twice") {
  constexpr std::size_t layer = 16384 * sizeof(float);
  constexpr std::size_t all = 6 * layer;
  constexpr std::size_t ahead = 128 << 10;  // what is gathered while the step before ends, from staging memory
  // The first step records; from then on what stays is chosen.
  CHECK(bytes_read_there_and_back(4_MiB, 1) == 2 * all);
  CHECK(bytes_read_there_and_back(4_MiB, 4) == 2 * all + 3 * (all - ahead));
  // Besides the two ahead: one in use and the last four of forward, then two gradients and what is left of them.
  CHECK(bytes_read_there_and_back(zerospan::Bytes{7 * layer}, 4) == 2 * all + 3 * (2 * all - 5 * layer - ahead));
  CHECK(bytes_read_there_and_back(zerospan::Bytes{4 * layer}, 4) == 2 * all + 3 * (2 * all - 2 * layer - ahead));
}

TEST_CASE("two alternating paths are each prefetched along their own") {
  for (const Budget budget : {Budget::roomy, Budget::tight}) {
    Configuration c = on_disk(2, budget);
    c.steps = 12;
    const Itinerary itinerary = [](std::int64_t step) { return step % 2 == 0 ? full_route() : backwards(); };
    const Journey journey = travel(c, itinerary);
    CHECK(journey.result == expected(c, itinerary));
    const PipelineCounters last = between(journey, 7, 11);
    CHECK(last.hits > 0);
    CHECK(last.mended == 0);
    CHECK(last.dropped == 0);
    if (budget == Budget::roomy) CHECK(last.misses == 0);
  }
}

TEST_CASE("an early exit now and then changes no bits") {
  zerospan_test::Sample sample{3};
  for (const Budget budget : {Budget::roomy, Budget::tight}) {
    for (const int ranks : {1, 3}) {
      if (!sample.takes()) continue;
      Configuration c = on_disk(ranks, budget);
      c.steps = 14;
      c.training.micro_batches = 2;
      const Itinerary itinerary = [](std::int64_t step) { return step % 5 == 3 ? early_exit() : full_route(); };
      const Journey journey = travel(c, itinerary);
      CHECK(journey.result == expected(c, itinerary));
      CHECK(journey.counters.back().mended > 0);
      CHECK(between(journey, 11, 12).hits > 0);
    }
  }
}

TEST_CASE("a new path late in training changes no bits, and is known from then on") {
  Configuration c = on_disk(1, Budget::roomy);
  c.steps = 56;
  const Itinerary itinerary = [](std::int64_t step) { return step >= 50 ? backwards() : early_exit(); };
  const Journey journey = travel(c, itinerary);
  CHECK(journey.result == expected(c, itinerary));
  CHECK(between(journey, 2, 49).misses == 0);
  CHECK(between(journey, 49, 50).misses > 0);
  CHECK(between(journey, 53, 55).misses == 0);
  CHECK(between(journey, 53, 55).mended == 0);
}

TEST_CASE("many different paths change no bits") {
  for (const Budget budget : {Budget::roomy, Budget::tight}) {
    Configuration c = on_disk(2, budget);
    c.steps = zerospan_test::is_sanitized ? 15 : 40;
    const Itinerary itinerary = [](std::int64_t step) {
      Route route = full_route();
      const auto turn = static_cast<std::ptrdiff_t>((step * step) % 23 % 14);
      std::ranges::rotate(route, route.begin() + turn);
      if (step % 3 == 1) route.resize(route.size() / 2);
      return route;
    };
    CHECK(travel(c, itinerary).result == expected(c, itinerary));
  }
}

TEST_CASE("a step that takes another path each time costs no plan") {
  Configuration c = on_disk(1, Budget::roomy);
  c.steps = 12;
  const Itinerary itinerary = [](std::int64_t step) {
    Route route = full_route();
    std::ranges::rotate(route, route.begin() + step);
    return route;
  };
  const Journey journey = travel(c, itinerary);
  CHECK(journey.result == expected(c, itinerary));
  CHECK(journey.counters.back().plans == 2);
}

TEST_CASE("an evaluation that is announced and left out costs no prefetch") {
  Configuration c = on_disk(1, Budget::roomy);
  c.steps = 6;
  const Itinerary itinerary = [](std::int64_t) { return full_route(); };
  const Journey plain = travel(c, itinerary);
  const Journey journey = travel(c, itinerary, Evaluation::announced_and_left_out);
  CHECK(journey.result == plain.result);
  CHECK(journey.counters.back().hits == plain.counters.back().hits);
  CHECK(journey.counters.back().misses == plain.counters.back().misses);
  CHECK(journey.counters.back().dropped == 0);
}

TEST_CASE("evaluation in between changes no bits, announced or not") {
  for (const Budget budget : {Budget::roomy, Budget::tight}) {
    Configuration c = on_disk(2, budget);
    c.steps = 12;
    const Itinerary itinerary = [](std::int64_t) { return full_route(); };
    const TrainingResult oracle = expected(c, itinerary);
    CHECK(travel(c, itinerary, Evaluation::unannounced).result == oracle);
    const Journey journey = travel(c, itinerary, Evaluation::announced);
    CHECK(journey.result == oracle);
    CHECK(between(journey, 7, 11).mended == 0);
    CHECK(between(journey, 7, 11).hits > 0);
  }
}

}  // namespace
