// What an engine refuses, and how little is left of it.
#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

#include <zerospan/zerospan.hpp>

#include "support/deferred_tier.hpp"
#include "support/faulty_io_engine.hpp"
#include "support/scratch.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::EngineOptions;
using zerospan::HostDevice;
using zerospan::Placement;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::Stage3;

struct Values {
  float* data;
};

/// A tensor that may refuse to be made.
struct Moody {
  float* data;
  inline static bool refuses = false;
};

}  // namespace

template <>
struct zerospan::TensorTraits<Values> {
  using element_type = float;
  static Values unbound(const Shape&) { return {nullptr}; }
  static void bind(Values& values, float* data) { values.data = data; }
  static float* data(const Values& values) { return values.data; }
};

template <>
struct zerospan::TensorTraits<Moody> {
  using element_type = float;
  static Moody unbound(const Shape&) {
    if (Moody::refuses) throw std::runtime_error{"not today"};
    return {nullptr};
  }
  static void bind(Moody& values, float* data) { values.data = data; }
  static float* data(const Moody& values) { return values.data; }
};

namespace {

using Parameter = zerospan::PartitionedParameter<Values>;

TEST_CASE("a refused declaration leaves nothing behind: neither its name nor its bytes") {
  HostDevice device{{.device_budget = 4_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier host{device};
  SelfCommunicator self;
  zerospan::ZeroEngine engine{Stage3{}, self, device, Placement{host, host, host}, zerospan::AdamW{}};
  for (int i = 0; i < 3; ++i) {
    CHECK_THROWS_AS((Parameter{engine, "w", {65000}, zerospan::init::ones()}), zerospan::BudgetError);
  }
  const Parameter w{engine, "w", {40000}, zerospan::init::ones()};
  CHECK(w.gather(calling_thread)->data[39999] == 1.0F);
}

TEST_CASE("sizes whose bytes cannot be counted are refused at the declaration") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier host{device};
  SelfCommunicator self;
  zerospan::ZeroEngine engine{Stage3{}, self, device, Placement{host, host, host}, zerospan::AdamW{}};
  for (const std::size_t elements : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 62,
                                     (std::size_t{1} << 62) + 1024, (std::size_t{1} << 48) + 1}) {
    CHECK_THROWS_AS((Parameter{engine, "w", Shape{elements}, zerospan::init::ones()}), zerospan::ConfigurationError);
  }
  CHECK_THROWS_AS((Parameter{engine, "w", Shape{std::size_t{1} << 48}, zerospan::init::ones()}), zerospan::BudgetError);
}

TEST_CASE("ranks that were given different options are told so") {
  const auto train = [](auto change) {
    zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
      HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
      zerospan::HostTier host{device};
      EngineOptions options{.seed = 1};
      if (communicator.rank().value == 1) change(options);
      zerospan::ZeroEngine engine{Stage3{},          communicator, device, Placement{host, host, host},
                                  zerospan::AdamW{}, options};
      const Parameter w{engine, "w", {5000}, zerospan::init::ones()};
      static_cast<void>(w.gather(calling_thread));
    });
  };
  train([](EngineOptions&) {});
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.seed = 2; }),
                       doctest::Contains("seed is 1 on rank 0, and 2 on rank 1"), zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.micro_batches = 2; }),
                       doctest::Contains("micro_batches is 1 on rank 0, and 2 on rank 1"),
                       zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.max_gradient_norm = 1; }),
                       doctest::Contains("max_gradient_norm is inf on rank 0, and 1 on rank 1"),
                       zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.partition = zerospan::Owners{}; }),
                       doctest::Contains("partition is slices on rank 0, and owners on rank 1"),
                       zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.prefetch = 0_MiB; }),
                       doctest::Contains("prefetch is chosen by the engine on rank 0, and 0 on rank 1"),
                       zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(train([](EngineOptions& o) { o.loss_scale.emplace(); }),
                       doctest::Contains("the loss scale is none on rank 0, and dynamic on rank 1"),
                       zerospan::ConfigurationError);
}

TEST_CASE("ranks that were given different stages or optimizers are told so") {
  const auto train = [](zerospan::ThreadCommunicator& communicator, auto stage, auto optimizer) {
    HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
    zerospan::DeviceTier tier{device};
    zerospan::ZeroEngine engine{stage, communicator, device, Placement{tier, tier, tier}, optimizer};
    const Parameter w{engine, "w", {5000}, zerospan::init::ones()};
    static_cast<void>(w.gather(calling_thread));
  };
  CHECK_THROWS_WITH_AS(zerospan::run_ranks(2,
                                           [&](zerospan::ThreadCommunicator ranks) {
                                             if (ranks.rank().value == 0) {
                                               train(ranks, Stage3{}, zerospan::AdamW{});
                                             } else {
                                               train(ranks, zerospan::Stage2{}, zerospan::AdamW{});
                                             }
                                           }),
                       doctest::Contains("the stage is 3 on rank 0, and 2 on rank 1"), zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(zerospan::run_ranks(2,
                                           [&](zerospan::ThreadCommunicator ranks) {
                                             if (ranks.rank().value == 0) {
                                               train(ranks, Stage3{}, zerospan::AdamW{});
                                             } else {
                                               train(ranks, Stage3{}, zerospan::Lion{});
                                             }
                                           }),
                       doctest::Contains("the optimizer is AdamW on rank 0, and Lion on rank 1"),
                       zerospan::ConfigurationError);
}

TEST_CASE("ranks whose tiers have different alignments are told so: their sub-groups would not be the same") {
  const auto train = [](std::size_t alignment_of_rank_1) {
    zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
      HostDevice device{{.device_budget = 1_MiB, .host_budget = 4_MiB}};
      zerospan::HostTier host{device};
      zerospan_test::DeferredTier tier{host, communicator.rank().value == 1 ? alignment_of_rank_1 : 512};
      zerospan::ZeroEngine engine{Stage3{},          communicator, device, Placement{tier, tier, tier},
                                  zerospan::AdamW{}, {.staging = 1_MiB}};
      const Parameter w{engine, "w", {5000}, zerospan::init::ones()};
      static_cast<void>(w.gather(calling_thread));
    });
  };
  train(512);
  CHECK_THROWS_WITH_AS(train(4096),
                       doctest::Contains("the alignment of shards, for the tiers of the placement, is 1024 elements on "
                                         "rank 0, and 2048 elements on rank 1"),
                       zerospan::ConfigurationError);
}

TEST_CASE("the longest timeout there is does not overflow") {
  const zerospan_test::ScratchDirectory scratch;
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::ThreadedIoEngine io;
  zerospan::NvmeTier disk{io, {.directory = scratch.path()}};
  SelfCommunicator self;
  zerospan::ZeroEngine engine{Stage3{},
                              self,
                              device,
                              Placement{disk, disk, disk},
                              zerospan::AdamW{},
                              EngineOptions{.timeout = std::chrono::milliseconds::max()}};
  const Parameter w{engine, "w", {50000}, zerospan::init::ones()};
  CHECK(w.gather(calling_thread)->data[49999] == 1.0F);
}

TEST_CASE("a trait that throws in a group leaves no lease behind") {
  HostDevice device{{.device_budget = 4_MiB, .host_budget = 4_MiB}};
  zerospan::HostTier host{device};
  SelfCommunicator self;
  zerospan::ZeroEngine engine{Stage3{}, self, device, Placement{host, host, host}, zerospan::AdamW{}};
  const zerospan::PartitionedParameter<Moody> a{engine, "a", {20000}, zerospan::init::ones()};
  const Parameter b{engine, "b", {20000}, zerospan::init::ones()};
  Moody::refuses = true;
  CHECK_THROWS_AS(static_cast<void>(zerospan::gather(calling_thread, a, b)), std::runtime_error);
  Moody::refuses = false;
  CHECK(engine.step().step == 1);
}

TEST_CASE("memory that a lost transfer may still write to is not used again") {
  const zerospan_test::ScratchDirectory scratch;
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::ThreadedIoEngine threads;
  zerospan_test::FaultyIoEngine io{threads};
  zerospan::NvmeTier disk{io, {.directory = scratch.path(), .drain_timeout = std::chrono::milliseconds{1}}};
  SelfCommunicator self;
  io.inject({{.kind = zerospan_test::FaultKind::lost, .request = 0}});
  {
    zerospan::ZeroEngine engine{Stage3{},
                                self,
                                device,
                                Placement{disk, disk, disk},
                                zerospan::AdamW{},
                                EngineOptions{.staging = 256_KiB, .timeout = std::chrono::milliseconds{50}}};
    const Parameter w{engine, "w", {50000}, zerospan::init::ones()};
    CHECK_THROWS_AS(static_cast<void>(w.gather(calling_thread)), zerospan::TimeoutError);
  }
  CHECK(device.host_memory().used() == 256_KiB);
  CHECK(disk.counters().used > 0_KiB);
  io.drop_lost();
}

}  // namespace
