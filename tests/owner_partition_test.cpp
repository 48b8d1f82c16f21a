#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/partition/partitioner.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
namespace sim = zerospan::sim;
using zerospan::AnyPartitioner;
using zerospan::BudgetError;
using zerospan::calling_thread;
using zerospan::EngineOptions;
using zerospan::Owners;
using zerospan::Partition;
using zerospan::Rank;
using zerospan::Shape;
using zerospan::Slices;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Array;
using zerospan_test::frozen;
using zerospan_test::Memory;
using zerospan_test::Place;

template <zerospan::Element E>
using Parameter = zerospan::PartitionedParameter<Array<E>>;

const std::array strategies{AnyPartitioner{Slices{}}, AnyPartitioner{Owners{}}};

/// Deals parameters of these sizes one after the other.
std::vector<Partition> deal(std::size_t ranks, std::span<const std::size_t> sizes) {
  auto cutter = Owners{}.make(ranks);
  std::vector<Partition> dealt;
  for (const std::size_t elements : sizes) dealt.push_back(cutter.cut("a parameter", elements));
  return dealt;
}

/// Runs `f(engine, memory, rank)` on every rank of a stage 3 engine. @return what the ranks returned.
template <class F>
auto on_each_rank(int ranks, Place place, const EngineOptions& options, F f) {
  return zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 4_MiB, 4_MiB};
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                communicator,
                                memory.device,
                                memory.placement(place, place, place),
                                zerospan::AdamW{.learning_rate = 0.1F},
                                options};
    return f(engine, memory, communicator.rank());
  });
}

template <zerospan::Element E>
void commit(const Parameter<E>& parameter, float value) {
  auto gradient = parameter.gradient(calling_thread);
  std::fill_n(gradient->data, gradient->size, E{value});
  gradient.commit();
}

/// The elements that a rank holds of parameters of these sizes, padding included.
std::size_t held(const AnyPartitioner& strategy, int ranks, Rank rank, std::span<const std::size_t> sizes) {
  const auto count = static_cast<std::size_t>(ranks);
  std::size_t elements = 0;
  if (strategy.is<Slices>()) {
    for (const std::size_t size : sizes) elements += Partition::sliced(size, count).shard_elements;
  } else {
    for (const Partition& p : deal(count, sizes)) elements += p.owner == rank ? p.shard_elements : 0;
  }
  return elements;
}

TEST_CASE("in a pass a rank reads its slice of every parameter, or the whole of each that it owns") {
  constexpr std::size_t layer = std::size_t{12} * 1024;  // divides evenly by every number of ranks here
  constexpr std::size_t layers = 12;
  for (const int ranks : {1, 2, 3, 4}) {
    for (const AnyPartitioner& strategy : strategies) {
      CAPTURE(ranks);
      const auto read =
          on_each_rank(ranks, Place::nvme, {.partition = strategy, .persistence_threshold = 0_KiB, .prefetch = 0_KiB},
                       [&](auto& engine, auto& memory, Rank) {
                         std::vector<Parameter<float>> model;
                         for (std::size_t l = 0; l < layers; ++l) {
                           model.emplace_back(engine, std::to_string(l), Shape{layer}, zerospan::init::ones());
                         }
                         engine.begin(zerospan::Pass::evaluation);  // ends declaration
                         std::vector<std::size_t> bytes;            // read so far, after each layer
                         for (const auto& weight : model) {
                           const std::size_t before = memory.on_nvme.counters().read.count;
                           static_cast<void>(weight.gather(calling_thread));
                           bytes.push_back(memory.on_nvme.counters().read.count - before);
                         }
                         return bytes;
                       });
      for (std::size_t l = 0; l < layers; ++l) {
        for (std::size_t r = 0; r < read.size(); ++r) {
          const bool owns = l % read.size() == r;  // equal layers are dealt in turns
          const std::size_t slice = layer * sizeof(float) / read.size();
          CHECK(read[r][l] == (strategy.is<Slices>() ? slice : owns ? layer * sizeof(float) : 0));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a step moves exactly the bytes of what a rank holds, and nothing else rests with it", E, float,
                   zerospan::bfloat16) {
  constexpr std::array<std::size_t, 5> sizes{20480, 4096, 6144, 5120, 8192};
  for (const AnyPartitioner& strategy : strategies) {
    for (const int ranks : {1, 2, 3}) {
      for (const std::size_t micro_batches : {1U, 2U}) {
        CAPTURE(ranks);
        CAPTURE(micro_batches);
        const EngineOptions options{
            .micro_batches = micro_batches, .partition = strategy, .persistence_threshold = 0_KiB, .prefetch = 0_KiB};
        on_each_rank(ranks, Place::nvme, options, [&](auto& engine, auto& memory, Rank rank) {
          std::vector<Parameter<E>> weights;
          for (const std::size_t size : sizes) {
            weights.emplace_back(engine, std::to_string(size), Shape{size}, zerospan::init::ones());
          }
          engine.step();
          const std::size_t elements = held(strategy, ranks, rank, sizes);
          const std::size_t gradient = micro_batches == 1 ? sizeof(E) : sizeof(float);
          const auto extent = [elements](std::size_t width) { return zerospan::round_up(elements * width, 4096); };
          const std::size_t states = sizeof(E) == sizeof(float) ? 8 : 12;  // in fp32 parameters are master weights
          CHECK(memory.on_nvme.counters().used.count == extent(sizeof(E)) + extent(states) + extent(gradient));
          for (int step = 0; step < 2; ++step) {
            const zerospan::TierCounters before = memory.on_nvme.counters();
            for (std::size_t micro = 0; micro < micro_batches; ++micro) {
              for (const Parameter<E>& weight : weights) {
                static_cast<void>(weight.gather(calling_thread));
                commit(weight, 1.0F);
              }
            }
            engine.step();
            engine.synchronize();
            const zerospan::TierCounters after = memory.on_nvme.counters();
            CHECK(after.read.count - before.read.count ==
                  elements * (micro_batches * sizeof(E) + micro_batches * gradient + 12));
            CHECK(after.written.count - before.written.count ==
                  elements * (micro_batches * gradient + states + sizeof(E)));
          }
          return 0;
        });
      }
    }
  }
}

/// What a run shows of itself, equal on every rank.
struct Sight {
  std::uint64_t masters;
  std::vector<double> norms;
  std::vector<float> values;

  friend bool operator==(const Sight&, const Sight&) = default;
};

/// Tied, frozen, skipped, rewritten and replicated parameters, gathered alone and in groups, trained for some steps.
template <zerospan::Element E, class Engine>
Sight train_everything(Engine& engine, Rank rank, int ranks) {
  const Parameter<E> wide{engine, "wide", {20011}, zerospan::init::normal(1)};
  const Parameter<E> ice{engine, "ice", {7001}, zerospan::init::normal(1), frozen};
  const Parameter<E> small{engine, "small", {30}, zerospan::init::normal(1)};
  const Parameter<E> table{engine, "table", {9000}, zerospan::init::normal(1)};
  const Parameter<E> head = table.tie("head");
  const Parameter<E> idle{engine, "idle", {3000}, zerospan::init::normal(1)};
  Sight sight{};
  for (int step = 0; step < 4; ++step) {
    for (int micro = 0; micro < 2; ++micro) {
      const auto [a, b, c] = gather(calling_thread, wide, ice, table);
      sight.values.push_back(static_cast<float>(a->data[20010]));
      sight.values.push_back(static_cast<float>(b->data[7000]));
      sight.values.push_back(static_cast<float>(c->data[8999]));
      const float value = static_cast<float>(a->data[7]) + static_cast<float>(rank.value + micro);
      if (step != 1) commit(head, 0.5F * value);
      commit(small, value);
      if (rank.value % 2 == 1) {
        table.skip();
      } else {
        commit(table, value);
      }
      commit(wide, -value);
    }
    sight.norms.push_back(engine.step().gradient_norm);
    if (step == 1) {
      for (const Parameter<E>* rewritten : {&wide, &ice, &small}) {
        auto full = rewritten->write(calling_thread);
        for (std::size_t k = 0; k < full->size; ++k) {
          full->data[k] = E{static_cast<float>(k % 257) + static_cast<float>(rank.value)};
        }
        full.commit(Rank{ranks - 1});
      }
    }
  }
  sight.masters = zerospan_test::hash_masters(engine);
  return sight;
}

TEST_CASE_TEMPLATE("owners give the bits of slices: tied, frozen, skipped, rewritten and replicated parameters", E,
                   float, zerospan::bfloat16) {
  for (const int ranks : {1, 2, 3, 4}) {
    std::vector<Sight> expected;
    zerospan_test::Sample sample{5};
    for (const Place place : {Place::device, Place::host, Place::nvme}) {
      for (const AnyPartitioner& strategy : strategies) {
        for (const std::size_t sub_group : {std::size_t{1024}, std::size_t{5000}, std::size_t{1} << 20}) {
          if (!sample.takes()) continue;
          CAPTURE(ranks);
          CAPTURE(to_string(place));
          CAPTURE(sub_group);
          const EngineOptions options{.micro_batches = 2,
                                      .max_gradient_norm = 100,
                                      .partition = strategy,
                                      .persistence_threshold = 1_KiB,
                                      .sub_group_elements = sub_group};
          const auto seen = on_each_rank(ranks, place, options, [&](auto& engine, auto&, Rank rank) {
            return train_everything<E>(engine, rank, ranks);
          });
          if (expected.empty()) expected = seen;
          for (const Sight& sight : seen) CHECK(sight == expected[0]);
        }
      }
    }
  }
}

TEST_CASE("below stage 3 nothing has an owner") {
  zerospan_test::Configuration c;
  c.training.ranks = 3;
  c.persistence_threshold = 0_KiB;
  const auto expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
  c.partition = Owners{};
  for (c.stage = 0; c.stage < 3; ++c.stage) CHECK(zerospan_test::train(c) == expected);
}

TEST_CASE("a gradient that overflows at its owner skips the step on every rank") {
  on_each_rank(3, Place::host, {.partition = Owners{}, .persistence_threshold = 0_KiB}, [&](auto& engine, auto&, Rank) {
    std::vector<Parameter<float>> weights;
    for (const char* name : {"a", "b", "c"}) {
      weights.emplace_back(engine, name, Shape{2000}, zerospan::init::ones());
    }
    for (std::size_t bad = 0; bad < weights.size(); ++bad) {
      for (std::size_t w = 0; w < weights.size(); ++w) {
        commit(weights[w], w == bad ? std::numeric_limits<float>::infinity() : 1.0F);
      }
      CHECK(engine.step().skipped);
    }
    for (const auto& weight : weights) CHECK(weight.gather(calling_thread)->data[0] == 1.0F);
    return 0;
  });
}

TEST_CASE("a declaration that is refused was dealt all the same, alike on every rank") {
  const auto used = on_each_rank(2, Place::host, {.partition = Owners{}, .persistence_threshold = 0_KiB},
                                 [&](auto& engine, auto& memory, Rank) {
                                   const auto declare = [&](const char* name, std::size_t elements) {
                                     return Parameter<float>{engine, name, {elements}, zerospan::init::ones(), frozen};
                                   };
                                   CHECK_THROWS_AS(declare("huge", 2'000'000), BudgetError);  // rank 0's
                                   const Parameter<float> first = declare("first", 1024);
                                   CHECK_THROWS_AS(declare("huge", 2'000'000), BudgetError);  // rank 1's
                                   const Parameter<float> second = declare("second", 2048);
                                   engine.begin(zerospan::Pass::evaluation);
                                   return memory.on_host.counters().used.count;
                                 });
  CHECK(used == std::vector<std::size_t>{8192, 4096});
}

TEST_CASE("an owner without room says so at the declaration, and all ranks fail") {
  const auto declare = [] {
    zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
      const bool is_poor = communicator.rank() == Rank{1};
      zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = is_poor ? 128_KiB : 1_MiB}};
      zerospan::HostTier host{device};
      zerospan::ZeroEngine engine{zerospan::Stage3{},
                                  communicator,
                                  device,
                                  zerospan::Placement{host, host, host},
                                  zerospan::AdamW{},
                                  EngineOptions{.partition = Owners{}, .persistence_threshold = 0_KiB}};
      const Parameter<float> rich{engine, "rich", {20000}, zerospan::init::ones()};
      const Parameter<float> poor{engine, "poor", {20000}, zerospan::init::ones()};
      static_cast<void>(rich.gather(calling_thread));
    });
  };
  CHECK_THROWS_WITH_AS(declare(), doctest::Contains("parameter poor"), BudgetError);
}

// Virtual time: a layer takes 1 s through one rank's link, copies and collectives take none. So a pass lasts as long as
// its reads do.
constexpr std::size_t sim_layer = std::size_t{16} * 1024;
constexpr std::size_t sim_layers = 48;
constexpr double one_layer_a_second = sim_layer * sizeof(float);

/// Seconds of a pass over the layers when it has been learned.
/// @param window Layers that may be fetched ahead.
double pass_seconds(const AnyPartitioner& strategy, int ranks, std::size_t window) {
  sim::Cluster cluster{sim::Topology{.ranks_per_node = ranks}};
  for (int r = 0; r < ranks; ++r) {
    sim::HostDevice device{cluster, Rank{r}, {.device_budget = 64_MiB, .host_budget = 128_MiB}};
    sim::Communicator communicator{cluster, Rank{r}};
    sim::Tier disk{device, {.capacity = 1_GiB, .own = sim::Disk{one_layer_a_second, one_layer_a_second}}};
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                communicator,
                                device,
                                zerospan::Placement{disk, disk, disk},
                                zerospan::AdamW{},
                                EngineOptions{.partition = strategy,
                                              .persistence_threshold = 0_KiB,
                                              .prefetch = zerospan::Bytes{window * sim_layer * sizeof(float)}}};
    std::vector<Parameter<float>> model;
    for (std::size_t l = 0; l < sim_layers; ++l) {
      model.emplace_back(engine, std::to_string(l), Shape{sim_layer}, zerospan::init::zeros(), frozen);
    }
    for (int pass = 0; pass < 3; ++pass) {
      engine.begin(zerospan::Pass::evaluation);
      device.compute("pass", 0);
      for (const auto& layer : model) static_cast<void>(layer.gather(calling_thread));
      engine.begin(zerospan::Pass::training);
    }
    device.compute("pass", 0);
  }
  std::vector<double> begins;
  for (const sim::Event& e : cluster.resolve()) {
    if (e.rank == Rank{0} && e.name == "pass") begins.push_back(e.begin);
  }
  return begins.at(3) - begins.at(2);
}

TEST_CASE("in virtual time slices are as many times faster than owners as there are ranks, fetched on demand") {
  for (const int ranks : {1, 2, 4, 8, 16}) {
    CAPTURE(ranks);
    const double slices = pass_seconds(Slices{}, ranks, 0);
    const double owners = pass_seconds(Owners{}, ranks, 0);
    CHECK(slices == static_cast<double>(sim_layers) / ranks);  // every link works all the time
    CHECK(owners == static_cast<double>(sim_layers));          // one link at a time
    CHECK(owners / slices == ranks);
  }
}

TEST_CASE("in virtual time prefetching lets owners work side by side, for the price of the layers under way") {
  // With w layers fetched ahead, w + 1 owners read at once: owners catch up with slices when as many layers as there
  // are ranks lie in device memory. Slices need no layer more.
  zerospan_test::Sample sample{4};
  for (const int ranks : {1, 2, 4, 8, 16}) {
    for (const std::size_t window : {1U, 3U, 7U, 15U, 23U}) {
      if (!sample.takes()) continue;
      CAPTURE(ranks);
      CAPTURE(window);
      const double active = std::min(static_cast<double>(window + 1), static_cast<double>(ranks));
      CHECK(pass_seconds(Slices{}, ranks, window) == static_cast<double>(sim_layers) / ranks);
      CHECK(pass_seconds(Owners{}, ranks, window) == static_cast<double>(sim_layers) / active);
    }
  }
}

}  // namespace
