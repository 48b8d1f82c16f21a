#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>
#include <zerospan/zerospan.hpp>

#include "support/scratch.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::HostDevice;
using zerospan::NvmeTier;
using zerospan::ThreadedIoEngine;
using zerospan_test::Configuration;
using zerospan_test::ScratchDirectory;
using zerospan_test::TrainingResult;

struct Striped {
  explicit Striped(HostDevice&) {}
  ScratchDirectory directories[2];
  ThreadedIoEngine io;
  NvmeTier<ThreadedIoEngine> first{io, {.directory = directories[0].path()}};
  NvmeTier<ThreadedIoEngine> second{io, {.directory = directories[1].path()}};
  zerospan::StripedTier tier{{first, second}, {.stripe = 4_KiB, .weights = {2, 1}}};
};

struct Cached {
  explicit Cached(HostDevice& device) : tier{nvme, device.host_memory(), {.bytes = 256_KiB, .line = 16_KiB}} {}
  ScratchDirectory directory;
  ThreadedIoEngine io;
  NvmeTier<ThreadedIoEngine> nvme{io, {.directory = directory.path()}};
  zerospan::CachedTier tier;
};

struct Throttled {
  explicit Throttled(HostDevice& device) : host{device}, tier{host, {.bytes_per_second = 2e9}} {}
  zerospan::HostTier host;
  zerospan::ThrottledTier tier;
};

/// Trains the toy model with everything on one adaptor.
template <class Storage>
TrainingResult train_on(const Configuration& c) {
  return zerospan_test::join_results(
      zerospan::run_ranks(c.training.ranks, [&](zerospan::ThreadCommunicator communicator) {
        HostDevice device{{.device_budget = 64_MiB, .host_budget = 80_MiB}};
        Storage storage{device};
        zerospan_test::AnyEngine engine{3,
                                        communicator,
                                        device,
                                        zerospan::Placement{storage.tier, storage.tier, storage.tier},
                                        c.training.optimizer,
                                        zerospan_test::engine_options(c)};
        return zerospan_test::train_rank(engine, communicator.rank(), c);
      }));
}

TEST_CASE_TEMPLATE("an engine does on an adaptor what it does without", Storage, Striped, Cached, Throttled) {
  Configuration c;
  c.training.ranks = 2;
  c.training.micro_batches = 2;
  c.steps = 5;
  c.persistence_threshold = 0_KiB;
  const TrainingResult actual = train_on<Storage>(c);
  c.stage = 0;
  const TrainingResult expected = zerospan_test::train(c);
  CHECK(actual.hash == expected.hash);
  CHECK(actual.norms == expected.norms);
}

/// Trains eight layers for some steps with their states on a cached disk. @return what was transferred there.
zerospan::TierCounters transfers_of(int steps, zerospan::Bytes cache) {
  const ScratchDirectory directory;
  ThreadedIoEngine io;
  NvmeTier nvme{io, {.directory = directory.path()}};
  HostDevice device{{.device_budget = 8_MiB, .host_budget = 8_MiB}};
  zerospan::DeviceTier on_device{device};
  zerospan::CachedTier cached{nvme, device.host_memory(), {.bytes = cache, .line = 4_KiB}};
  zerospan::SelfCommunicator self;
  {
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                self,
                                device,
                                zerospan::Placement{on_device, on_device, cached},
                                zerospan::AdamW{},
                                zerospan::EngineOptions{.sub_group_elements = 4096}};
    std::vector<zerospan::PartitionedParameter<zerospan_test::Array<float>>> weights;
    for (int i = 0; i < 8; ++i) {
      weights.emplace_back(engine, "w" + std::to_string(i), zerospan::Shape{4096}, zerospan::init::normal(1));
    }
    for (int step = 0; step < steps; ++step) {
      for (const auto& weight : weights) {
        const auto full = weight.gather(zerospan::calling_thread);
        auto gradient = weight.gradient(zerospan::calling_thread);
        for (std::size_t k = 0; k < full->size; ++k) gradient->data[k] = full->data[k];
        gradient.commit();
      }
      engine.step();
    }
  }
  return nvme.counters();
}

TEST_CASE("with half of the states cached, every step but the first reads and writes half of them") {
  constexpr std::size_t states = 8 * 4096 * 8;  // two moments: master weights are the parameters
  for (const std::size_t cache : {states / 4, states / 2, states}) {
    for (std::size_t steps = 1; steps < 5; ++steps) {
      CAPTURE(cache);
      CAPTURE(steps);
      const zerospan::TierCounters counters = transfers_of(static_cast<int>(steps), zerospan::Bytes{cache});
      CHECK(counters.peak.count == states);
      CHECK(counters.read.count == states + (steps - 1) * (states - cache));
      CHECK(counters.written.count == states + steps * (states - cache));  // at birth, too
    }
  }
}

}  // namespace
