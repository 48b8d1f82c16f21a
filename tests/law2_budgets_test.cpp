#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::BudgetError;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Array;
using zerospan_test::Memory;
using zerospan_test::Place;

using Parameter = zerospan::PartitionedParameter<Array<float>>;
using SelfEngine = zerospan::ZeroEngine<zerospan::Stage3, SelfCommunicator, zerospan::HostDevice, zerospan::AdamW>;

/// One rank with all states on disk.
struct Rig {
  explicit Rig(Bytes device_budget, Bytes host_budget = 256_KiB, Bytes prefetch = 256_MiB)
      : memory{io, device_budget, host_budget},
        engine{zerospan::Stage3{}, self,
               memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
               zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB, .prefetch = prefetch}} {}

  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory;
  SelfCommunicator self;
  SelfEngine engine;
};

TEST_CASE("states ten times as large as all budgets train") {
  constexpr Bytes device_budget = 64_KiB;
  constexpr Bytes host_budget = 64_KiB;
  constexpr std::size_t layers = 16;
  constexpr std::size_t elements = 8192;  // gathered and gradient: 64 KiB
  static_assert(layers * elements * 16 >= 10 * (device_budget.count + host_budget.count));

  const auto train = [&](Bytes device, Bytes host) {
    Rig rig{device, host};
    std::vector<Parameter> weights;
    for (std::size_t l = 0; l < layers; ++l) {
      weights.emplace_back(rig.engine, std::string{"w"} + std::to_string(l), Shape{elements},
                           zerospan::init::normal(1));
    }
    for (int step = 0; step < 3; ++step) {
      for (std::size_t l = layers; l-- > 0;) {
        const auto full = weights[l].gather(calling_thread);
        auto gradient = weights[l].gradient(calling_thread);
        for (std::size_t k = 0; k < elements; ++k) gradient->data[k] = full->data[k] * 0.5F;
        gradient.commit();
      }
      CHECK(rig.engine.step().skipped == false);
    }
    const std::uint64_t hash = zerospan_test::hash_masters(rig.engine);
    CHECK(rig.memory.device.memory().peak() <= device);
    CHECK(rig.memory.device.host_memory().peak() <= host);
    CHECK(rig.memory.on_nvme.counters().used.count == layers * elements * 16);
    return hash;
  };
  CHECK(train(device_budget, host_budget) == train(16_MiB, 16_MiB));
}

TEST_CASE("a parameter that can never fit is refused at its declaration") {
  Rig rig{256_KiB};
  const Parameter fits{rig.engine, "fits", {30000}, zerospan::init::constant(1)};
  try {
    const Parameter huge{rig.engine, "huge", {65537}, zerospan::init::constant(1)};
    FAIL("it was admitted");
  } catch (const BudgetError& error) {
    CHECK(std::string{error.what()} ==
          "the gather of parameter huge in device memory needs 262208 bytes, 262144 are left: 64 bytes short; raise "
          "the device budget, or tile the layer");
    CHECK(error.short_by() == Bytes{64});
  }
  CHECK(fits.gather(calling_thread)->data[29999] == 1);  // the engine goes on without it
}

TEST_CASE("states that do not fit their tier are refused at the declaration") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  SelfCommunicator self;
  SelfEngine engine{zerospan::Stage3{}, self,
                    memory.device,      memory.placement(Place::host, Place::host, Place::host),
                    zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}};
  const Parameter first{engine, "first", {51200}, zerospan::init::constant(1)};  // 800 KiB of 960
  CHECK_THROWS_WITH_AS((Parameter{engine, "second", {12288}, zerospan::init::constant(1)}),
                       doctest::Contains("second in host memory needs "), BudgetError);
}

TEST_CASE("staging that does not fit the host budget is refused") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 32_KiB};
  SelfCommunicator self;
  const auto make = [&] {
    SelfEngine engine{zerospan::Stage3{}, self, memory.device, memory.placement(Place::nvme, Place::nvme, Place::nvme),
                      zerospan::AdamW{}};
  };
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("the staging memory in host memory needs 65536 bytes, 32768 are left"),
                       BudgetError);
}

TEST_CASE("staging takes what it is given of the host memory, or what the largest parameter needs") {
  struct Case {
    Bytes host;
    Place parameters;
    zerospan::EngineOptions options;
    Bytes at_first;
    Bytes in_training;
  };
  const std::array cases{
      Case{1024_MiB, Place::nvme, {}, 64_MiB, 160_MiB},  // twice 20 bytes an element: states, gradient, parameter
      Case{256_MiB, Place::nvme, {}, 64_MiB, 128_MiB},
      Case{100_MiB, Place::nvme, {}, 64_MiB, 64_MiB},
      Case{16_MiB, Place::nvme, {}, 16_MiB, 16_MiB},
      Case{1024_MiB, Place::nvme, {.staging = 8_MiB}, 8_MiB, 8_MiB},
  };
  for (const auto& [host, parameters, options, at_first, in_training] : cases) {
    CAPTURE(host.count);
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 40_MiB, host};
    SelfCommunicator self;
    SelfEngine engine{zerospan::Stage3{}, self,
                      memory.device,      memory.placement(parameters, Place::nvme, Place::nvme),
                      zerospan::AdamW{},  options};
    CHECK(memory.device.host_memory().used() == at_first);
    const Parameter large{engine, "large", {std::size_t{4} << 20}, zerospan::init::zeros()};
    engine.begin(zerospan::Pass::training);
    CHECK(memory.device.host_memory().used() == in_training);
    CHECK(memory.device.host_memory().peak() == in_training);
  }
}

TEST_CASE("beside states in host memory, staging takes a quarter of it, 64 MiB at most") {
  for (const auto& [host, staging] : {std::pair{1024_MiB, 64_MiB}, std::pair{100_MiB, 25_MiB}}) {
    CAPTURE(host.count);
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 1_MiB, host};
    SelfCommunicator self;
    const SelfEngine engine{zerospan::Stage3{}, self, memory.device,
                            memory.placement(Place::host, Place::nvme, Place::nvme), zerospan::AdamW{}};
    CHECK(memory.device.host_memory().used() == staging);
  }
}

TEST_CASE("a gradient that can never fit is refused before anything is trained") {
  const auto results = zerospan::run_ranks(2, [](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 64_KiB, 256_KiB};
    zerospan::ZeroEngine engine{
        zerospan::Stage3{}, communicator,
        memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
        zerospan::AdamW{},  zerospan::EngineOptions{.micro_batches = 2, .persistence_threshold = 0_KiB}};
    try {
      const Parameter wide{engine, "wide", {16384}, zerospan::init::constant(1)};  // with its sum: 96 KiB
      static_cast<void>(wide.gather(calling_thread));
    } catch (const BudgetError& error) {
      return std::string{error.what()};
    }
    return std::string{};
  });
  for (const std::string& message : results) {
    CHECK(message.find("the gradient of wide in device memory needs 98304 bytes, 65536 are left") == 0);
  }
}

TEST_CASE("leases that do not fit together are refused at the gather, and nothing is changed") {
  const auto train = [](bool tries_too_much) {
    Rig rig{256_KiB};
    const Parameter a{rig.engine, "a", {20480}, zerospan::init::normal(1)};  // 80 KiB each
    const Parameter b{rig.engine, "b", {20480}, zerospan::init::normal(1)};
    const Parameter c{rig.engine, "c", {20480}, zerospan::init::normal(1)};
    const Parameter d{rig.engine, "d", {20480}, zerospan::init::normal(1)};
    for (int step = 0; step < 5; ++step) {
      auto full_a = a.gather(calling_thread);
      auto full_b = b.gather(calling_thread);
      auto gradient = c.gradient(calling_thread);
      if (tries_too_much && step % 2 == 0) {
        const std::string rest =
            " needs 81920 bytes, 16384 are left: 65536 bytes short; release one of the leases held first: a read "
            "lease of a, a read lease of b, a gradient lease of c";
        CHECK_THROWS_WITH_AS(static_cast<void>(d.gather(calling_thread)),
                             ("the gather of d in device memory" + rest).c_str(), BudgetError);
        CHECK_THROWS_WITH_AS(static_cast<void>(d.gradient(calling_thread)),
                             ("the gradient of d in device memory" + rest).c_str(), BudgetError);
        CHECK_THROWS_WITH_AS(static_cast<void>(d.write(calling_thread)),
                             ("the write lease of d in device memory" + rest).c_str(), BudgetError);
        CHECK_THROWS_AS(static_cast<void>(gather(calling_thread, a, d)), BudgetError);
        CHECK_THROWS_AS(d.skip(), BudgetError);
      }
      full_b.release();
      auto full_d = d.gather(calling_thread);
      for (std::size_t k = 0; k < 20480; ++k) gradient->data[k] = full_a->data[k] - full_d->data[k];
      full_a.release();
      gradient.commit();
      full_d.release();
      CHECK_FALSE(rig.engine.step().skipped);
    }
    CHECK(rig.memory.device.memory().peak() <= 256_KiB);
    return zerospan_test::hash_masters(rig.engine);
  };
  CHECK(train(true) == train(false));
}

/// What a pass does: it leases a parameter or its gradient under a slot, or ends the lease of a slot.
struct Action {
  enum class Kind : std::uint8_t { gather, gradient, release };
  Kind kind;
  std::size_t parameter;
  std::size_t slot;
};
using Script = std::vector<Action>;

class Performer {
 public:
  explicit Performer(Rig& rig) {
    constexpr std::size_t sizes[]{1024, 20480, 3000, 7000, 12000, 5000, 1, 9000};
    for (const std::size_t size : sizes) {
      parameters_.emplace_back(rig.engine, std::string{"p"} + std::to_string(parameters_.size()), Shape{size},
                               zerospan::init::constant(static_cast<float>(size)));
    }
  }

  std::size_t parameters() const { return parameters_.size(); }
  std::size_t held() const { return reads_.size() + gradients_.size(); }
  bool holds_gradient(std::size_t parameter) const {
    return std::ranges::any_of(gradients_, [&](const auto& g) { return g.second.first == parameter; });
  }

  /// @throws BudgetError
  void perform(const Action& action) {
    const Parameter& parameter = parameters_[action.parameter];
    switch (action.kind) {
      case Action::Kind::gather: {
        auto read = parameter.gather(calling_thread);
        addresses.push_back(read->data);
        CHECK(read->data[read->size - 1] == static_cast<float>(read->size));
        reads_.emplace(action.slot, std::move(read));
        break;
      }
      case Action::Kind::gradient: {
        auto gradient = parameter.gradient(calling_thread);
        addresses.push_back(gradient->data);
        std::fill_n(gradient->data, gradient->size, 1.0F);
        gradients_.emplace(action.slot, std::pair{action.parameter, std::move(gradient)});
        break;
      }
      case Action::Kind::release:
        reads_.erase(action.slot);
        if (const auto gradient = gradients_.find(action.slot); gradient != gradients_.end()) {
          gradient->second.second.discard();
          gradients_.erase(gradient);
        }
        break;
    }
  }

  std::vector<const float*> addresses;  ///< Of all leases so far.

 private:
  std::vector<Parameter> parameters_;
  std::map<std::size_t, zerospan::ReadLease<Array<float>>> reads_;
  std::map<std::size_t, std::pair<std::size_t, zerospan::GradientLease<Array<float>>>> gradients_;
};

/// Performs a random pass that fits, and writes it down. Leases end in any order.
Script improvise(Performer& performer, std::mt19937_64& random) {
  Script script;
  std::vector<std::size_t> open;
  for (std::size_t slot = 0; slot < 60 || !open.empty(); ++slot) {
    const bool ends = slot >= 60 || (!open.empty() && random() % 5 < 2);
    Action action{};
    if (ends) {
      const std::size_t which = random() % open.size();
      action = {Action::Kind::release, 0, open[which]};
      open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
    } else {
      const std::size_t parameter = random() % performer.parameters();
      const bool is_gradient = random() % 3 == 0 && !performer.holds_gradient(parameter);
      action = {is_gradient ? Action::Kind::gradient : Action::Kind::gather, parameter, slot};
    }
    try {
      performer.perform(action);
    } catch (const BudgetError&) {
      continue;
    }
    script.push_back(action);
    if (!ends) open.push_back(slot);
  }
  return script;
}

TEST_CASE("a path that was recorded once never fails later") {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U}) {
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    Rig rig{140_KiB};
    Performer performer{rig};
    const Script script = improvise(performer, random);
    rig.engine.step();
    for (int pass = 0; pass < 8; ++pass) {
      for (const Action& action : script) REQUIRE_NOTHROW(performer.perform(action));
      rig.engine.step();
    }
    CHECK(rig.memory.device.memory().peak() <= 140_KiB);
  }
}

TEST_CASE("paths that were recorded once never fail later, in whatever order they come") {
  for (const std::uint64_t seed : {11U, 12U, 13U, 14U, 15U, 16U, 17U, 18U}) {
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    Rig rig{140_KiB};
    Performer performer{rig};
    std::vector<Script> scripts;
    for (int path = 0; path < 4; ++path) {
      scripts.push_back(improvise(performer, random));
      rig.engine.step();
    }
    for (int pass = 0; pass < 20; ++pass) {
      for (const Action& action : scripts[random() % scripts.size()]) REQUIRE_NOTHROW(performer.perform(action));
      rig.engine.step();
    }
    CHECK(rig.memory.device.memory().peak() <= 140_KiB);
  }
}

TEST_CASE("addresses are stable from the third identical pass on") {
  for (const std::uint64_t seed : {21U, 22U, 23U}) {
    for (const Bytes budget : {140_KiB, 4_MiB}) {
      std::mt19937_64 random{seed};
      Rig rig{budget};
      Performer performer{rig};
      const Script script = improvise(performer, random);
      rig.engine.step();
      std::vector<std::vector<const float*>> passes;
      for (int pass = 2; pass <= 6; ++pass) {
        performer.addresses.clear();
        for (const Action& action : script) performer.perform(action);
        rig.engine.step();
        if (pass >= 3) passes.push_back(performer.addresses);
      }
      for (const auto& addresses : passes) CHECK(addresses == passes.front());
      if (budget == 4_MiB) CHECK(rig.engine.statistics().prefetch.hits > 0);
    }
  }
}

TEST_CASE("prefetching stays within its own allowance") {
  const auto peak = [](Bytes prefetch) {
    Rig rig{4_MiB, 256_KiB, prefetch};
    std::vector<Parameter> weights;
    for (int i = 0; i < 10; ++i) {
      weights.emplace_back(rig.engine, std::string{"w"} + std::to_string(i), Shape{10240}, zerospan::init::zeros());
    }
    for (int pass = 0; pass < 3; ++pass) {
      for (const Parameter& weight : weights) static_cast<void>(weight.gather(calling_thread));
      rig.engine.step();
    }
    return rig.memory.device.memory().peak();
  };
  CHECK(peak(0_KiB) == 40_KiB);
  CHECK(peak(80_KiB) == 120_KiB);
  CHECK(peak(200_KiB) == 240_KiB);
}

TEST_CASE("engines leave their tiers as they found them") {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 300_KiB, 300_KiB};
  SelfCommunicator self;
  for (int i = 0; i < 5; ++i) {
    SelfEngine engine{zerospan::Stage3{}, self,
                      memory.device,      memory.placement(Place::host, Place::device, Place::device),
                      zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}};
    const Parameter weight{engine, "w", {12000}, zerospan::init::ones()};
    if (i % 2 == 0) continue;  // declared and never used: what was reserved comes back as well
    CHECK(weight.gather(calling_thread)->data[11999] == 1);
    engine.step();  // the next pass is fetched ahead
  }
  CHECK(memory.device.memory().used() == 0_KiB);
  CHECK(memory.device.host_memory().used() == 0_KiB);
}

}  // namespace
