#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/aligned_tier.hpp"
#include "support/deferred_tier.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::AdamW;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::EngineOptions;
using zerospan::float16;
using zerospan::HostDevice;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan::ZeroEngine;
using zerospan_test::AlignedTier;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::Memory;
using zerospan_test::Place;

template <zerospan::Element E>
using Parameter = zerospan::PartitionedParameter<Array<E>>;

static_assert(zerospan::Stage<zerospan::Stage0> && zerospan::Stage<zerospan::Stage3>);

// Near misses.
struct PartitionsParametersAlone {
  static constexpr bool partitions_optimizer = false;
  static constexpr bool partitions_gradients = false;
  static constexpr bool partitions_parameters = true;
};
struct PartitionsNothingKnown {};
static_assert(!zerospan::Stage<PartitionsParametersAlone> && !zerospan::Stage<PartitionsNothingKnown>);
static_assert(!std::is_copy_constructible_v<zerospan::ReadLease<Array<float>>>);
static_assert(!std::is_copy_constructible_v<zerospan::GradientLease<Array<float>>>);
static_assert(!std::is_copy_constructible_v<zerospan::WriteLease<Array<float>>>);
static_assert(std::is_move_constructible_v<zerospan::ReadLease<Array<float>>>);

TEST_CASE("stages, placements and options that contradict each other are refused") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  SelfCommunicator self;
  const auto make = [&](int stage, Place parameters, Place gradients, Place optimizer, const EngineOptions& options,
                        const AdamW& optimizer_settings) {
    AnyEngine engine{
        stage, self, memory.device, memory.placement(parameters, gradients, optimizer), optimizer_settings, options};
  };
  using enum Place;
  for (const int stage : {0, 1, 2}) {
    CHECK_THROWS_WITH_AS(make(stage, host, device, device, {}, {}),
                         doctest::Contains("below stage 3 every rank keeps whole parameters"), ConfigurationError);
    CHECK_THROWS_AS(make(stage, nvme, device, device, {}, {}), ConfigurationError);
  }
  for (const int stage : {0, 1}) {
    CHECK_THROWS_WITH_AS(make(stage, device, nvme, device, {}, {}),
                         doctest::Contains("below stage 2 every rank keeps whole gradients"), ConfigurationError);
    CHECK_NOTHROW(make(stage, device, host, nvme, {}, {}));
  }
  CHECK_THROWS_AS(make(3, nvme, nvme, nvme, {.micro_batches = 0}, {}), ConfigurationError);
  CHECK_THROWS_AS(make(3, nvme, nvme, nvme, {.timeout = std::chrono::milliseconds{0}}, {}), ConfigurationError);
  for (const float norm : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    CHECK_THROWS_AS(make(3, nvme, nvme, nvme, {.max_gradient_norm = norm}, {}), ConfigurationError);
  }
  CHECK_THROWS_AS(make(3, nvme, nvme, nvme, {}, {.epsilon = 0}), ConfigurationError);
  CHECK_NOTHROW(make(3, nvme, nvme, nvme, {}, {}));
}

TEST_CASE("an alignment beyond 4096 bytes is refused") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  AlignedTier coarse{memory.on_nvme, 8192};
  SelfCommunicator self;
  const auto make = [&] {
    ZeroEngine engine{zerospan::Stage3{}, self, memory.device, zerospan::Placement{coarse, coarse, coarse}, AdamW{}};
  };
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("wants transfers aligned to 8192 bytes"), ConfigurationError);
}

/// Trains on a disk of coarse alignment, with small staging memory and small sub-groups.
zerospan_test::TrainingResult train_coarsely(const Configuration& c, std::size_t alignment, zerospan::Bytes host_budget,
                                             std::size_t sub_group) {
  return zerospan_test::join_results(zerospan::run_ranks(c.training.ranks, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 4_MiB, host_budget};
    AlignedTier disk{memory.on_nvme, alignment};
    EngineOptions options = zerospan_test::engine_options(c);
    options.sub_group_elements = sub_group;
    AnyEngine engine{3,      communicator, memory.device, zerospan::Placement{disk, disk, disk}, c.training.optimizer,
                     options};
    return zerospan_test::train_rank(engine, communicator.rank(), c);
  }));
}

TEST_CASE("shards of odd numbers of blocks train on disks of any alignment, in sub-groups of any size") {
  using enum zerospan::ElementType;
  zerospan_test::Sample sample{13};
  for (const auto& [type, ranks] : {std::pair{float32, 1}, std::pair{float32, 3}, std::pair{bfloat16, 1},
                                    std::pair{bfloat16, 3}, std::pair{float16, 1}, std::pair{float16, 3}}) {
    for (const std::size_t micro_batches : {1U, 3U}) {
      Configuration c;
      c.type = type;
      c.training.ranks = ranks;
      c.training.micro_batches = micro_batches;
      c.persistence_threshold = 0_KiB;
      const auto expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
      for (const std::size_t alignment : {512U, 4096U}) {
        for (const auto& [host, group] : {std::pair{64_KiB, std::size_t{1} << 20}, std::pair{4_MiB, std::size_t{1}},
                                          std::pair{4_MiB, std::size_t{3000}}, std::pair{200_KiB, std::size_t{5000}}}) {
          if (!sample.takes()) continue;
          CAPTURE(c.describe());
          CAPTURE(alignment);
          CAPTURE(host.count);
          CAPTURE(group);
          CHECK(train_coarsely(c, alignment, host, group) == expected);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a step with everything on disk moves exactly the bytes that it must", E, float, bfloat16, float16) {
  constexpr std::array<std::size_t, 4> sizes{3072, 5120, 6144, 20480};
  constexpr std::size_t width = sizeof(E);
  for (const int ranks : {1, 2, 3}) {
    for (const std::size_t micro_batches : {1U, 2U}) {
      CAPTURE(ranks);
      CAPTURE(micro_batches);
      zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
        ThreadedIoEngine io;
        Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
        ZeroEngine engine{
            zerospan::Stage3{},
            communicator,
            memory.device,
            memory.placement(Place::nvme, Place::nvme, Place::nvme),
            AdamW{},
            EngineOptions{.micro_batches = micro_batches, .persistence_threshold = 0_KiB, .prefetch = 0_KiB}};
        std::vector<Parameter<E>> weights;
        std::size_t shards = 0;  // elements of this rank's shards, padding included
        for (const std::size_t size : sizes) {
          weights.emplace_back(engine, std::string{"w"} + std::to_string(size), Shape{size}, zerospan::init::ones());
          shards += zerospan::Partition::sliced(size, static_cast<std::size_t>(ranks)).shard_elements;
        }
        static_cast<void>(weights[0].gather(calling_thread));
        engine.step();
        engine.synchronize();
        for (int step = 0; step < 3; ++step) {
          const zerospan::Statistics before = engine.statistics();
          const zerospan::TierCounters tier_before = memory.on_nvme.counters();
          for (std::size_t micro = 0; micro < micro_batches; ++micro) {
            for (const Parameter<E>& weight : weights) {
              static_cast<void>(weight.gather(calling_thread));
              auto gradient = weight.gradient(calling_thread);
              std::fill_n(gradient->data, gradient->size, E{1.0F});
              gradient.commit();
            }
          }
          engine.step();
          engine.synchronize();
          const zerospan::Statistics after = engine.statistics();
          const zerospan::TierCounters tier_after = memory.on_nvme.counters();
          // Read: parameters for each gather; accumulators from the second micro-batch on, and for the update; master
          // weights and moments. Written: accumulators in each micro-batch; moments; master weights and parameters,
          // which are the same if they are of fp32.
          const std::size_t gradient_width = micro_batches == 1 ? width : sizeof(float);
          const std::size_t read =
              shards * (micro_batches * width + (micro_batches - 1) * gradient_width + gradient_width + 4 + 8);
          const std::size_t written = shards * (micro_batches * gradient_width + 8 + 4 + width % sizeof(float));
          CHECK(after.bytes_read - before.bytes_read == read);
          CHECK(after.bytes_written - before.bytes_written == written);
          CHECK(tier_after.read.count - tier_before.read.count == read);
          CHECK(tier_after.written.count - tier_before.written.count == written);
        }
        const zerospan::Statistics statistics = engine.statistics();
        CHECK(statistics.bytes_read == memory.on_nvme.counters().read.count);
        CHECK(statistics.bytes_written == memory.on_nvme.counters().written.count);
        CHECK(statistics.parameters == 34816);
        CHECK(statistics.hidden_transfer_share() >= 0);
        CHECK(statistics.hidden_transfer_share() <= 1);
      });
    }
  }
}

TEST_CASE("what lies on disk as the disk demands is gathered without a copy; the rest comes through staging memory") {
  for (const std::size_t ranks : {1U, 2U}) {
    CAPTURE(ranks);
    zerospan::run_ranks(static_cast<int>(ranks), [&](ThreadCommunicator communicator) {
      ThreadedIoEngine io;
      Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
      AlignedTier disk{memory.on_nvme, 4096};
      ZeroEngine engine{zerospan::Stage3{},
                        communicator,
                        memory.device,
                        zerospan::Placement{disk, disk, disk},
                        AdamW{},
                        EngineOptions{.persistence_threshold = 0_KiB, .prefetch = 0_KiB}};
      const Parameter<bfloat16> pages{engine, "pages", {4096 * ranks}, zerospan::init::ones()};
      const Parameter<bfloat16> odd{engine, "odd", {3072 * ranks}, zerospan::init::ones()};
      const auto copied = [&](const Parameter<bfloat16>& parameter) {
        const std::size_t before = engine.statistics().operations[zerospan::OperationKind::copy].bytes;
        const auto lease = parameter.gather(calling_thread);
        CHECK(std::all_of(lease->data, lease->data + lease->size, [](bfloat16 value) { return float{value} == 1; }));
        return engine.statistics().operations[zerospan::OperationKind::copy].bytes - before;
      };
      CHECK(copied(odd) == 6144);  // bytes of a shard
      CHECK(copied(pages) == 0);
    });
  }
}

TEST_CASE("device memory that a lost read may still write to stays taken") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier memory{device};
  zerospan_test::DeferredTier disk{memory, 512};
  SelfCommunicator self;
  {
    ZeroEngine engine{
        zerospan::Stage3{},
        self,
        device,
        zerospan::Placement{.parameters = disk, .gradients = memory, .optimizer = memory},
        AdamW{},
        EngineOptions{.persistence_threshold = 0_KiB, .prefetch = 0_KiB, .timeout = std::chrono::milliseconds{50}}};
    const Parameter<float> weight{engine, "weight", {4096}, zerospan::init::ones()};
    static_cast<void>(weight.gather(calling_thread));
    disk.hold();
    CHECK_THROWS_AS(static_cast<void>(weight.gather(calling_thread)), zerospan::TimeoutError);
  }
  CHECK(device.memory().used() >= 16_KiB);
  REQUIRE(disk.held() == 1);
  disk.release();
}

TEST_CASE("states in memory move no byte from or to a disk") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  SelfCommunicator self;
  ZeroEngine engine{zerospan::Stage3{},
                    self,
                    memory.device,
                    memory.placement(Place::host, Place::device, Place::host),
                    AdamW{},
                    EngineOptions{.persistence_threshold = 0_KiB}};
  const Parameter<float> weight{engine, "w", {5000}, zerospan::init::ones()};
  for (int step = 0; step < 3; ++step) {
    auto gradient = weight.gradient(calling_thread);
    std::fill_n(gradient->data, 5000, 1.0F);
    gradient.commit();
    engine.step();
  }
  CHECK(engine.statistics().bytes_read == 0);
  CHECK(engine.statistics().bytes_written == 0);
}

TEST_CASE("the optimizer's settings can change between steps") {
  const auto train = [](float later_rate) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
    SelfCommunicator self;
    ZeroEngine engine{zerospan::Stage3{}, self, memory.device, memory.placement(Place::nvme, Place::nvme, Place::nvme),
                      AdamW{.learning_rate = 0.1F}};
    const Parameter<float> weight{engine, "w", {5000}, zerospan::init::ones()};
    for (int step = 0; step < 2; ++step) {
      auto gradient = weight.gradient(calling_thread);
      std::fill_n(gradient->data, 5000, 1.0F);
      gradient.commit();
      engine.step();
      engine.optimizer().learning_rate = later_rate;
    }
    return weight.gather(calling_thread)->data[0];
  };
  CHECK(train(0) > train(0.1F));
  CHECK(train(0.1F) > train(0.2F));
}

TEST_CASE("master weights arrive in declaration order and logical order, on every rank") {
  constexpr std::array<std::size_t, 5> sizes{30000, 1, 5000, 1024, 4097};
  for (const int ranks : {1, 4}) {
    zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
      ThreadedIoEngine io;
      Memory<ThreadedIoEngine> memory{io, 1_MiB, 200_KiB};
      ZeroEngine engine{zerospan::Stage3{}, communicator, memory.device,
                        memory.placement(Place::nvme, Place::nvme, Place::nvme), AdamW{}};
      std::vector<Parameter<bfloat16>> weights;
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        weights.emplace_back(engine, std::to_string(i), Shape{sizes[i]},
                             [i](const zerospan::InitializerContext&, std::uint64_t first, std::span<float> values) {
                               for (std::size_t k = 0; k < values.size(); ++k) {
                                 values[k] = static_cast<float>(i) + static_cast<float>(first + k) * 0x1p-20F;
                               }
                             });
      }
      std::vector<std::vector<float>> seen(sizes.size());
      bool is_ordered = true;
      engine.for_each_master([&](std::string_view name, std::uint64_t first, std::span<const float> values) {
        auto& so_far = seen[static_cast<std::size_t>(std::stoi(std::string{name}))];
        is_ordered = is_ordered && so_far.size() == first;
        so_far.insert(so_far.end(), values.begin(), values.end());
      });
      CHECK(is_ordered);
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        CHECK(seen[i].size() == sizes[i]);
        bool is_exact = true;
        for (std::size_t k = 0; k < seen[i].size(); ++k) {
          is_exact = is_exact && seen[i][k] == static_cast<float>(i) + static_cast<float>(k) * 0x1p-20F;
        }
        CHECK(is_exact);
      }
      CHECK_THROWS_AS(engine.for_each_master([](auto, auto, auto) { throw std::domain_error{"mine"}; }),
                      std::domain_error);
      CHECK(engine.step().step == 1);  // a visitor's exception is the visitor's
    });
  }
}

TEST_CASE("two engines share a process, a communicator, an I/O engine and a directory") {
  Configuration c;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  c.training.ranks = 2;
  const auto expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
  const auto results = zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    std::array<Memory<ThreadedIoEngine>, 2> memories{Memory<ThreadedIoEngine>{io, 4_MiB, 4_MiB},
                                                     Memory<ThreadedIoEngine>{io, 4_MiB, 4_MiB}};
    const auto make = [&](Memory<ThreadedIoEngine>& memory) {
      return AnyEngine{3,
                       communicator,
                       memory.device,
                       memory.placement(c.parameters, c.gradients, c.optimizer),
                       c.training.optimizer,
                       zerospan_test::engine_options(c)};
    };
    auto first = make(memories[0]);
    auto second = make(memories[1]);
    auto result = zerospan_test::train_rank(first, communicator.rank(), c);
    if (zerospan_test::train_rank(second, communicator.rank(), c) != result) {
      throw std::logic_error{"engines differ"};
    }
    return result;
  });
  CHECK(zerospan_test::join_results(results) == expected);
}

TEST_CASE("a parameter that is smaller than the number of ranks trains") {
  for (const int stage : {0, 1, 2, 3}) {
    zerospan::run_ranks(4, [&](ThreadCommunicator communicator) {
      ThreadedIoEngine io;
      Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
      AnyEngine engine{stage,
                       communicator,
                       memory.device,
                       memory.placement(Place::device, Place::host, Place::nvme),
                       AdamW{.learning_rate = 0.5F, .weight_decay = 0},
                       EngineOptions{.persistence_threshold = 0_KiB}};
      const Parameter<float> one{engine, "one", {}, zerospan::init::constant(1)};
      for (int step = 0; step < 2; ++step) {
        auto gradient = one.gradient(calling_thread);
        gradient->data[0] = 2;
        gradient.commit();
        CHECK(engine.step().gradient_norm == 2);
      }
      CHECK(one.gather(calling_thread)->data[0] == doctest::Approx(0).epsilon(1e-6));
    });
  }
}

TEST_CASE("a timeline records every rank's lanes, and changes no bits") {
  Configuration c;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  zerospan::Timeline timeline;
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 4_MiB, 4_MiB};
  SelfCommunicator self;
  EngineOptions options = zerospan_test::engine_options(c);
  options.timeline = &timeline;
  {
    AnyEngine engine{
        3,      self, memory.device, memory.placement(c.parameters, c.gradients, c.optimizer), c.training.optimizer,
        options};
    CHECK(zerospan_test::train_rank(engine, self.rank(), c) ==
          zerospan_test::train_replicated(c.training, c.type, c.steps));
    std::uint64_t read = 0;
    for (const zerospan::Span& span : timeline.spans()) read += span.kind == "read" ? span.bytes : 0;
    CHECK(read == engine.statistics().bytes_read);
  }
  CHECK_FALSE(timeline.spans().empty());
}

}  // namespace
