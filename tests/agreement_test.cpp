// What ranks must be told alike, the least budgets, freezing, and whose memory and threads an engine takes.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/engines.hpp"
#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::EngineOptions;
using zerospan::HostDevice;
using zerospan::LeaseError;
using zerospan::ParameterOptions;
using zerospan::Placement;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::Stage0;
using zerospan::Stage1;
using zerospan::Stage3;
using Weight = zerospan::PartitionedParameter<zerospan_test::Array<float>>;
using HalfWeight = zerospan::PartitionedParameter<zerospan_test::Array<zerospan::bfloat16>>;

struct Rig {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier host{device};
  zerospan::DeviceTier memory{device};
  Placement placement{host, host, host};
};

/// An optimizer whose states of a block are more than the least staging memory.
struct ManyStates {
  static constexpr std::string_view name = "many states";
  static std::size_t state_bytes(std::size_t elements) { return 32 * elements * sizeof(float); }
  static void update(const zerospan::ShardUpdate&) {}
};

/// Two ranks declare: `declare(engine, rank)`, and gather.
template <class Declare>
void declare_on_two(Declare declare) {
  zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator ranks) {
    Rig rig;
    zerospan::ZeroEngine engine{Stage3{}, ranks, rig.device, rig.placement, zerospan::Sgd{}};
    const Weight first{engine, "first", {3000}, zerospan::init::ones()};
    declare(engine, ranks.rank().value);
    static_cast<void>(first.gather(calling_thread));
  });
}

template <class W, class E>
void fill_and_commit(const W& weight, E value) {
  auto gradient = weight.gradient(calling_thread);
  for (std::size_t i = 0; i < gradient->size; ++i) gradient->data[i] = value;
  gradient.commit();
}

}  // namespace

TEST_CASE("ranks that declare different models are told the first parameter that differs, and both ranks") {
  const auto told = [](const char* text) { return doctest::Contains(text); };
  const auto one = [](auto& engine, const char* name, Shape shape, zerospan::Initializer initializer,
                      ParameterOptions options = {}) {
    Weight{engine, name, shape, std::move(initializer), options};
  };
  CHECK_THROWS_WITH_AS(
      declare_on_two([&](auto& e, int rank) { one(e, rank == 0 ? "a" : "b", {8}, zerospan::init::ones()); }),
      told("parameter 1 is a float32 [8], trainable, learning rate factor 1, weight decay factor 1, constant 1 on rank "
           "0, and b float32 [8]"),
      ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         one(e, "a", {2, rank == 0 ? 4U : 5U}, zerospan::init::ones());
                       }),
                       told("a float32 [2, 4]"), ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         one(e, "a", rank == 0 ? Shape{2, 4} : Shape{4, 2}, zerospan::init::ones());
                       }),
                       told("[4, 2]"), ConfigurationError);
  CHECK_THROWS_WITH_AS(
      declare_on_two([&](auto& e, int rank) { one(e, "a", {8}, zerospan::init::normal(rank == 0 ? 0.5F : 0.25F)); }),
      told("normal 0.5 on rank 0"), ConfigurationError);
  CHECK_THROWS_WITH_AS(
      declare_on_two([&](auto& e, int rank) {
        const auto whole = zerospan::init::normal(rank == 0 ? 0.5F : 0.25F);
        one(e, "a", {8}, zerospan::tile_initializer(whole, 1, 16, {.outputs = {0, 1}, .inputs = {0, 8}, .accumulates = false}));
      }),
      told("a part of normal 0.5 on rank 0"), ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         one(e, "a", {8}, zerospan::init::ones(),
                             {.group = {.weight_decay_factor = rank == 0 ? 1.0F : 0.0F}});
                       }),
                       told("weight decay factor 0"), ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         one(e, "a", {8}, zerospan::init::ones(),
                             {.training = rank == 0 ? zerospan::Training::trainable : zerospan::Training::frozen});
                       }),
                       told("frozen"), ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         if (rank == 1) one(e, "extra", {8}, zerospan::init::ones());
                       }),
                       told("parameter 1 is nothing on rank 0, and extra float32 [8]"), ConfigurationError);
  CHECK_THROWS_WITH_AS(declare_on_two([&](auto& e, int rank) {
                         if (rank == 0) {
                           one(e, "a", {8}, zerospan::init::ones());
                         } else {
                           HalfWeight{e, "a", {8}, zerospan::init::ones()};
                         }
                       }),
                       told("a bfloat16 [8]"), ConfigurationError);
  CHECK_NOTHROW(declare_on_two([&](auto& e, int) { one(e, "a", {8}, zerospan::init::normal(0.5F)); }));
}

TEST_CASE("a tie on one rank alone is seen") {
  CHECK_THROWS_WITH_AS(
      zerospan::run_ranks(3,
                          [&](zerospan::ThreadCommunicator ranks) {
                            Rig rig;
                            zerospan::ZeroEngine engine{Stage3{}, ranks, rig.device, rig.placement, zerospan::Sgd{}};
                            const Weight first{engine, "first", {3000}, zerospan::init::ones()};
                            if (ranks.rank().value == 2) static_cast<void>(first.tie("head"));
                            static_cast<void>(first.gather(calling_thread));
                          }),
      doctest::Contains("parameter 1 is nothing on rank 0, and head, tied to first on rank 2"), ConfigurationError);
}

TEST_CASE("a step that one rank refuses is refused on all, and all can go on") {
  for (const bool below : {true, false}) {
    zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator ranks) {
      const auto train = [&](auto stage) {
        Rig rig;
        zerospan::ZeroEngine engine{stage, ranks, rig.device, Placement{rig.memory, rig.memory, rig.memory},
                                    zerospan::Sgd{.learning_rate = 1.0F}};
        const Weight weight{engine, "w", {5000}, zerospan::init::zeros()};
        fill_and_commit(weight, 1.0F);
        if (ranks.rank().value == 1) engine.optimizer().learning_rate = std::numeric_limits<float>::quiet_NaN();
        CHECK_THROWS_WITH_AS(engine.step(), doctest::Contains("learning_rate is nan, not finite"), ConfigurationError);
        CHECK(weight.gather(calling_thread)->data[0] == 0.0F);
        engine.optimizer().learning_rate = 1.0F;
        CHECK(engine.step().step == 1);
        CHECK(weight.gather(calling_thread)->data[4999] == -1.0F);
      };
      if (below) {
        train(Stage0{});
      } else {
        train(Stage3{});
      }
    });
  }
}

TEST_CASE("a parameter that is frozen for a while has no gradient, and stays what it is") {
  zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator ranks) {
    Rig rig;
    zerospan::ZeroEngine engine{Stage3{}, ranks, rig.device, rig.placement, zerospan::Sgd{.learning_rate = 1.0F}};
    const Weight a{engine, "a", {5000}, zerospan::init::zeros()};
    const Weight b{engine, "b", {5000}, zerospan::init::zeros()};
    const Weight c{engine, "c", {5000}, zerospan::init::zeros(), {.training = zerospan::Training::frozen}};
    a.freeze();
    CHECK_FALSE(a.trains());
    CHECK(b.trains());
    CHECK_THROWS_WITH_AS(static_cast<void>(a.gradient(calling_thread)), "a is frozen: it has no gradient", LeaseError);
    fill_and_commit(b, 1.0F);
    CHECK_THROWS_AS(a.unfreeze(), LeaseError);  // not with gradients committed
    engine.step();
    a.unfreeze();
    fill_and_commit(a, 1.0F);
    engine.step();
    CHECK(a.gather(calling_thread)->data[4999] == -1.0F);
    CHECK(b.gather(calling_thread)->data[0] == -1.0F);
    CHECK_THROWS_WITH_AS(c.unfreeze(), doctest::Contains("c was declared frozen"), LeaseError);
    {
      const auto held = a.gather(calling_thread);
      CHECK_THROWS_AS(a.freeze(), LeaseError);
    }
    if (ranks.rank().value == 1) a.freeze();
    fill_and_commit(b, 1.0F);
    CHECK_THROWS_WITH_AS(engine.step(), doctest::Contains("the list of frozen parameters is empty on rank 0, and a"),
                         ConfigurationError);
  });
}

TEST_CASE("the least budgets that an engine tells are enough to train in") {
  for (const int ranks : {1, 2, 3}) {
    CAPTURE(ranks);
    zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
      const auto with = [&](Bytes device_budget, Bytes host_budget, bool states_on_host) {
        HostDevice device{{.device_budget = device_budget, .host_budget = host_budget}};
        zerospan::ThreadedIoEngine io;
        zerospan::HostTier host{device};
        zerospan::NvmeTier nvme{io, {.directory = std::filesystem::temp_directory_path().string()}};
        const zerospan::TierRef states = states_on_host ? zerospan::TierRef{host} : zerospan::TierRef{nvme};
        zerospan::ZeroEngine engine{Stage3{}, communicator, device, Placement{nvme, host, states}, zerospan::AdamW{}};
        std::vector<Weight> weights;
        for (const std::size_t elements : {std::size_t{3}, std::size_t{70'000}, std::size_t{100'000}, std::size_t{9}}) {
          weights.emplace_back(engine, "w" + std::to_string(elements), Shape{elements}, zerospan::init::ones());
        }
        const zerospan::Requirements needs = engine.requirements();
        for (int step = 0; step < 2; ++step) {
          for (const Weight& weight : weights) {
            const auto full = weight.gather(calling_thread);
            fill_and_commit(weight, full->data[0]);
          }
          engine.step();
        }
        return needs;
      };
      for (const bool states_on_host : {true, false}) {
        const zerospan::Requirements needs = with(16_MiB, 16_MiB, states_on_host);
        CHECK(needs.device_forward.count >= 400'000);
        CHECK(needs.device_backward.count >= needs.device_forward.count + 400'000);
        CHECK(needs.device_backward.count < 900'000);
        CHECK_NOTHROW(with(needs.device_backward, needs.host, states_on_host));
      }
    });
  }
}

TEST_CASE("the least budgets count a parameter that is frozen for a while as one that trains") {
  zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator ranks) {
    const auto with = [&](Bytes device_budget) {
      HostDevice device{{.device_budget = device_budget, .host_budget = 4_MiB}};
      zerospan::HostTier host{device};
      zerospan::ZeroEngine engine{
          Stage3{}, ranks, device, Placement{host, host, host}, zerospan::Sgd{}, EngineOptions{.micro_batches = 2}};
      const Weight large{engine, "large", {70'000}, zerospan::init::zeros()};
      const Weight small{engine, "small", {20'000}, zerospan::init::zeros()};
      large.freeze();
      const zerospan::Requirements needs = engine.requirements();
      static_cast<void>(large.gather(calling_thread));
      fill_and_commit(small, 1.0F);
      engine.step();
      return needs;
    };
    CHECK_NOTHROW(with(with(4_MiB).device_backward));
  });
}

TEST_CASE("the least budgets hold what remains of a share, gradients that are apart, and large states") {
  SelfCommunicator alone;
  const auto check = [&](auto stage, auto optimizer, std::size_t count, std::size_t elements, bool on_disk) {
    const auto needs_with = [&](Bytes device_budget, Bytes host_budget, bool trains) {
      HostDevice device{{.device_budget = device_budget, .host_budget = host_budget}};
      zerospan::ThreadedIoEngine io;
      zerospan::NvmeTier nvme{io, {.directory = std::filesystem::temp_directory_path().string()}};
      zerospan::DeviceTier memory{device};
      zerospan::HostTier host{device};
      Placement placement{memory, host, host, zerospan::TierShare{memory, 0.5}};
      if (on_disk) placement = Placement{memory, host, nvme};
      zerospan::ZeroEngine engine{stage, alone, device, placement, optimizer};
      std::vector<Weight> weights;
      for (std::size_t w = 0; w < count; ++w) {
        weights.emplace_back(engine, "w" + std::to_string(w), Shape{elements}, zerospan::init::zeros());
      }
      const zerospan::Requirements needs = engine.requirements();
      if (!trains) return needs;
      for (const Weight& weight : weights) fill_and_commit(weight, 1.0F);
      engine.step();
      return needs;
    };
    const zerospan::Requirements needs = needs_with(16_MiB, on_disk ? 128_KiB : 16_MiB, false);
    CHECK_NOTHROW(needs_with(needs.device_backward, needs.host, true));
  };
  check(Stage3{}, zerospan::AdamW{}, 1, 20'000, false);
  check(Stage1{}, zerospan::AdamW{}, 200, 1, false);
  check(Stage3{}, ManyStates{}, 1, 5'000, true);
}

TEST_CASE("a tier of another device is refused") {
  Rig rig;
  Rig other;
  SelfCommunicator alone;
  CHECK_THROWS_WITH_AS(
      (zerospan::ZeroEngine{Stage3{}, alone, rig.device, Placement{rig.host, other.host, rig.host}, zerospan::Sgd{}}),
      doctest::Contains("is of another device than the engine"), ConfigurationError);
}

TEST_CASE("a second engine is told that another one works in the device's memory") {
  Rig rig;
  SelfCommunicator alone;
  zerospan::ZeroEngine first{Stage3{}, alone, rig.device, rig.placement, zerospan::Sgd{}};
  const Weight weight{first, "w", {5000}, zerospan::init::zeros()};
  static_cast<void>(weight.gather(calling_thread));
  zerospan::ZeroEngine second{Stage3{}, alone, rig.device, rig.placement, zerospan::Sgd{}};
  CHECK_THROWS_WITH_AS((Weight{second, "w", {5000}, zerospan::init::zeros()}),
                       doctest::Contains("another engine works in the device's memory"), zerospan::BudgetError);
}

TEST_CASE("a device's stream is no place for a lease on the host's device") {
  Rig rig;
  SelfCommunicator alone;
  zerospan::ZeroEngine engine{Stage3{}, alone, rig.device, rig.placement, zerospan::Sgd{}};
  const Weight weight{engine, "w", {5000}, zerospan::init::zeros()};
  int handle = 0;
  CHECK_THROWS_WITH_AS(static_cast<void>(weight.gather(zerospan::StreamRef{&handle})),
                       doctest::Contains("calling_thread"), ConfigurationError);
  CHECK_THROWS_AS(static_cast<void>(weight.gradient(zerospan::StreamRef{&handle})), ConfigurationError);
  CHECK_THROWS_AS(static_cast<void>(weight.write(zerospan::StreamRef{&handle})), ConfigurationError);
  CHECK(weight.gather(calling_thread)->data[0] == 0);
}

TEST_CASE("a call from a callback, or beside one of another thread, is refused") {
  Rig rig;
  SelfCommunicator alone;
  zerospan::ZeroEngine engine{Stage3{}, alone, rig.device, rig.placement, zerospan::Sgd{}};
  const Weight weight{engine, "w", {5000}, zerospan::init::zeros()};
  engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float>) {
    CHECK_THROWS_WITH_AS(static_cast<void>(weight.gather(calling_thread)),
                         "gather() is called from within a callback of the same engine", LeaseError);
    std::thread{[&] {
      CHECK_THROWS_WITH_AS(engine.step(), "step() is called while another thread is in the same engine", LeaseError);
    }}.join();
  });
  CHECK(weight.gather(calling_thread)->data[0] == 0);
}

TEST_CASE("a parameter without a name is refused") {
  Rig rig;
  SelfCommunicator alone;
  zerospan::ZeroEngine engine{Stage3{}, alone, rig.device, rig.placement, zerospan::Sgd{}};
  CHECK_THROWS_AS((Weight{engine, "", {5000}, zerospan::init::zeros()}), ConfigurationError);
}
