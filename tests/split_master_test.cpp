// Master weights in two halves: bits, bytes, and what may be done with them.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/kernels/split_float.hpp>
#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/sample.hpp"
#include "support/toy_model.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::bfloat16;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::EngineOptions;
using zerospan::MasterWeights;
using zerospan_test::Configuration;
using zerospan_test::Place;
using Parameter = zerospan::PartitionedParameter<zerospan_test::Array<bfloat16>>;

/// One rank whose parameter is on a disk, with its states.
struct Rank {
  explicit Rank(MasterWeights master_weights, float learning_rate = 0.25F)
      : engine{zerospan::Stage3{},
               self,
               device,
               zerospan::Placement{disk, disk, disk},
               zerospan::Sgd{.learning_rate = learning_rate},
               EngineOptions{.master_weights = master_weights, .persistence_threshold = 0_KiB, .prefetch = 0_KiB}},
        weight{engine, "weight", zerospan::Shape{elements}, zerospan::init::ones()} {}

  /// One step in which every gradient is that.
  void step(float gradient) {
    static_cast<void>(weight.gather(calling_thread));
    auto lease = weight.gradient(calling_thread);
    std::fill_n(lease->data, lease->size, bfloat16{gradient});
    lease.commit();
    engine.step();
    engine.synchronize();
  }

  std::vector<float> masters() {
    std::vector<float> all;
    engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
      all.insert(all.end(), values.begin(), values.end());
    });
    return all;
  }

  static constexpr std::size_t elements = 8192;
  zerospan::SelfCommunicator self;
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::ThreadedIoEngine io;
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk{
      io, {.directory = std::filesystem::temp_directory_path().string()}};
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::Sgd> engine;
  Parameter weight;
};

}  // namespace

TEST_CASE("training with master weights in halves has the bits of replicated training that rounds as it does") {
  zerospan_test::Sample sample{12};
  for (const int stage : {0, 1, 2, 3}) {
    for (const Place parameters : {Place::device, Place::host, Place::nvme}) {
      for (const Place optimizer : {Place::device, Place::host, Place::nvme}) {
        for (const int ranks : {1, 2, 3}) {
          for (const std::size_t micro_batches : {1U, 2U}) {
            Configuration c;
            c.training = {.ranks = ranks, .micro_batches = micro_batches, .max_gradient_norm = 0.5F,
                          .master_weights = MasterWeights::split};
            c.type = zerospan::ElementType::bfloat16;
            c.steps = 4;
            c.stage = stage;
            c.parameters = stage < 3 ? Place::device : parameters;
            c.gradients = stage < 2 ? Place::device : optimizer;
            c.optimizer = optimizer;
            c.budget = micro_batches == 1 ? zerospan_test::Budget::tight : zerospan_test::Budget::roomy;
            if (!c.is_possible() || !sample.takes()) continue;
            CAPTURE(c.describe());
            CHECK(zerospan_test::train(c) == zerospan_test::train_replicated(c.training, c.type, c.steps));
          }
        }
      }
    }
  }
}

TEST_CASE("a step moves two bytes a parameter less, and as many less rest") {
  std::array<zerospan::TierCounters, 2> at_rest;
  std::array<std::uint64_t, 2> read{};
  std::array<std::uint64_t, 2> written{};
  for (const MasterWeights how : {MasterWeights::whole, MasterWeights::split}) {
    const auto i = static_cast<std::size_t>(how);
    Rank rank{how};
    rank.step(1.0F);
    at_rest[i] = rank.disk.counters();
    rank.step(1.0F);
    read[i] = rank.disk.counters().read.count - at_rest[i].read.count;
    written[i] = rank.disk.counters().written.count - at_rest[i].written.count;
  }
  CHECK(at_rest[0].used.count == Rank::elements * (2 + 2 + 4));  // parameters, gradients, master weights
  CHECK(at_rest[1].used.count == Rank::elements * (2 + 2 + 2));
  CHECK(read[0] == Rank::elements * (2 + 2 + 4));  // the gather, the gradients, the master weights
  CHECK(read[1] == Rank::elements * (2 + 2 + 4));
  CHECK(written[0] == Rank::elements * (2 + 2 + 4));
  CHECK(written[1] == Rank::elements * (2 + 2 + 2));
}

TEST_CASE("what is halfway between two parameters is rounded away from zero, and is not lost") {
  // 1 - 2^-10 x 4 = 0.99609375 = 0x3f7f0000; half a unit below it is 0x3f7e8000.
  for (const MasterWeights how : {MasterWeights::whole, MasterWeights::split}) {
    Rank rank{how, 1.0F};
    rank.step(std::bit_cast<float>(0x3bc00000U));  // 2^-8 x 1.5: 1 - that is 0x3f7e8000
    CHECK(std::bit_cast<std::uint32_t>(rank.masters()[17]) == 0x3f7e8000U);
    const auto full = rank.weight.gather(calling_thread);
    CHECK(full->data[17].bits == (how == MasterWeights::whole ? 0x3f7e : 0x3f7f));
  }
}

TEST_CASE("halves are shown, changed and replaced whole") {
  Rank rank{MasterWeights::split};
  rank.step(0.001F);
  const std::vector<float> before = rank.masters();
  CHECK(before[0] != static_cast<float>(bfloat16{before[0]}));

  std::vector<float> shown;
  rank.engine.for_each_state([&](const zerospan::StatesPiece& piece) {
    shown.insert(shown.end(), piece.master.begin(), piece.master.end());
  });
  CHECK(shown == before);

  rank.engine.edit_states([](const zerospan::StatesEdit& edit) {
    for (std::size_t i = 0; i < edit.master.size(); ++i) {
      edit.master[i] = 1.0F / static_cast<float>(1 + edit.first + i);
    }
    return zerospan::EditOutcome::changed;
  });
  const std::vector<float> edited = rank.masters();
  for (std::size_t i = 0; i < edited.size(); ++i) REQUIRE(edited[i] == 1.0F / static_cast<float>(1 + i));
  {
    const auto full = rank.weight.gather(calling_thread);
    for (std::size_t i = 0; i < edited.size(); ++i) {
      REQUIRE(full->data[i].bits == zerospan::SplitFloat{edited[i]}.nearest.bits);
    }
  }

  {
    auto lease = rank.weight.write(calling_thread);
    std::fill_n(lease->data, lease->size, bfloat16{0.375F});
    lease.commit();
  }
  CHECK(std::ranges::all_of(rank.masters(), [](float value) { return value == 0.375F; }));
}
