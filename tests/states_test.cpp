#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_toy_rank.hpp"
#include "support/sample.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::EditOptions;
using zerospan::EditOutcome;
using zerospan::LeaseError;
using zerospan::StatesEdit;
using zerospan::StatesPiece;
using zerospan::TrainingProgress;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::everything_on;
using zerospan_test::ModelStates;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ways;

constexpr Bytes small_buffer{std::size_t{48} << 10};  // 4096 elements of AdamW's

/// What all ranks show together, after so many steps, and where the training stands.
struct Shown {
  ModelStates states;
  TrainingProgress progress;
};

Shown shown_after(const Configuration& c, std::int64_t steps) {
  Shown shown;
  std::mutex mutex;
  on_toy_ranks(c, [&](auto& rank) {
    rank.train(0, steps);
    rank.engine().for_each_state(
        [&](const StatesPiece& piece) {
          const std::scoped_lock lock{mutex};
          collect(shown.states, piece);
        },
        small_buffer);
    const std::scoped_lock lock{mutex};
    shown.progress = rank.engine().progress();
    return 0;
  });
  return shown;
}

TEST_CASE("all ranks together show each element once, and the same in each way to keep it") {
  zerospan_test::Sample sample{3};
  for (const int ranks : {1, 3}) {
    for (const auto type : {zerospan::ElementType::float32, zerospan::ElementType::bfloat16}) {
      ModelStates first;
      for (const Configuration& c : ways(ranks, type)) {
        if (!sample.takes()) continue;
        CAPTURE(c.describe());
        const Shown shown = shown_after(c, 2);
        CHECK(shown.states.size() == zerospan_test::layers.size());
        for (const auto& [name, whole] : shown.states) {
          CAPTURE(name);
          CHECK(std::ranges::all_of(whole.seen, [](int times) { return times == 1; }));
          CHECK(whole.states.size() == (name.starts_with("frozen") ? 0 : 2));
        }
        CHECK(shown.progress == TrainingProgress{.step = 2});
        CHECK(shown.states.at("wide").updates == 2);
        CHECK(shown.states.at("sometimes").updates == 1);
        CHECK(shown.states.at("idle").updates == 0);
        if (first.empty()) first = shown.states;
        CHECK((shown.states == first));
      }
    }
  }
}

TEST_CASE("what is shown is what for_each_master tells") {
  const Shown shown = shown_after(everything_on(Place::nvme, 2), 2);
  ModelStates told;
  on_toy_ranks(everything_on(Place::nvme, 2), [&](auto& rank) {
    rank.train(0, 2);
    rank.engine().for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
      if (rank.rank().value != 0) return;
      auto& master = told[std::string{name}].master;
      master.insert(master.end(), values.begin(), values.end());
    });
    return 0;
  });
  for (const auto& [name, whole] : shown.states) CHECK((whole.master == told.at(name).master));
}

TEST_CASE("a training that is shown to another engine goes on there, to the bit") {
  const auto type = zerospan::ElementType::bfloat16;
  zerospan_test::Sample sample{3};
  for (const Configuration& from : {everything_on(Place::nvme, 2, type), everything_on(Place::device, 2, type)}) {
    const Shown shown = shown_after(from, 2);
    for (const Configuration& to : ways(2, type)) {
      if (!sample.takes()) continue;
      CAPTURE(to.describe());
      const auto hashes = on_toy_ranks(to, [&](auto& rank) {
        rank.engine().edit_states(
            [&](const StatesEdit& edit) { return restore(shown.states, edit); },
            {.content = zerospan::WriteContent::undefined, .progress = shown.progress, .buffer = small_buffer});
        const std::uint64_t at_once = rank.hash();
        rank.train(2, 4);
        CHECK(rank.engine().progress().step == 4);
        return std::pair{at_once, rank.hash()};
      });
      const auto uninterrupted = on_toy_ranks(from, [](auto& rank) {
        rank.train(0, 2);
        const std::uint64_t then = rank.hash();
        rank.train(2, 4);
        return std::pair{then, rank.hash()};
      });
      CHECK(hashes == uninterrupted);
    }
  }
}

TEST_CASE("a training goes back to where it was, whatever was prefetched meanwhile") {
  for (const Configuration& c : ways(2, zerospan::ElementType::float32)) {
    CAPTURE(c.describe());
    const Shown shown = shown_after(c, 2);
    on_toy_ranks(c, [&](auto& rank) {
      rank.train(0, 4);
      const std::uint64_t first = rank.hash();
      rank.engine().edit_states([&](const StatesEdit& edit) { return restore(shown.states, edit); },
                                {.progress = shown.progress});
      CHECK(rank.hash() != first);
      rank.train(2, 4);
      CHECK(rank.hash() == first);
      return 0;
    });
  }
}

TEST_CASE("copies in groups of ranks are not read after their parameters were edited") {
  const Configuration c = everything_on(Place::host, 4);
  const auto train = [&](bool with_copies) {
    return zerospan::run_ranks(4, [&](zerospan::ThreadCommunicator threads) {
      zerospan::GroupedCommunicator ranks{zerospan::split_into_groups(threads, 2)};
      zerospan::HostDevice device{{.device_budget = Bytes{16 << 20}, .host_budget = Bytes{16 << 20}}};
      zerospan::HostTier host{device};
      zerospan::Placement placement{host, host, host};
      if (with_copies) placement.group_copies = host;
      zerospan_test::AnyEngine engine{3, ranks, device, placement, zerospan::AdamW{}, engine_options(c)};
      const zerospan_test::ToyModel<float> model{engine};
      const zerospan_test::Position at{threads.rank().value, 1, 0};
      model.forward(zerospan_test::full_route(), at);
      engine.edit_states([](const StatesEdit& edit) {
        for (float& value : edit.master) value += 1.0F;
        return EditOutcome::changed;
      });
      return model.forward(zerospan_test::full_route(), at);
    });
  };
  CHECK(train(true) == train(false));
}

TEST_CASE("replicas of the shards are shown once, and each is edited") {
  zerospan::run_ranks(4, [&](zerospan::ThreadCommunicator threads) {
    zerospan::HybridCommunicator ranks{zerospan::split_into_groups(threads, 2)};
    zerospan::HostDevice device{{.device_budget = Bytes{16 << 20}, .host_budget = Bytes{16 << 20}}};
    zerospan::HostTier host{device};
    zerospan_test::AnyEngine engine{3,
                                    ranks,
                                    device,
                                    zerospan::Placement{host, host, host},
                                    zerospan::AdamW{},
                                    zerospan::EngineOptions{.persistence_threshold = Bytes{0}}};
    const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {30000}, zerospan::init::zeros()};
    std::int64_t shown = 0;
    engine.for_each_state([&](const StatesPiece& piece) { shown += static_cast<std::int64_t>(piece.master.size()); },
                          small_buffer);
    CHECK(shown > 0);
    CHECK(shown < 15000);
    threads.all_reduce({zerospan::calling_thread, "shown"}, std::span{&shown, 1});
    CHECK(shown == 30000);
    engine.edit_states([](const StatesEdit& edit) {
      std::ranges::fill(edit.master, 2.0F);
      edit.updates = 7;
      return EditOutcome::changed;
    });
    const auto full = weight.gather(zerospan::calling_thread);
    CHECK(std::all_of(full->data, full->data + full->size, [](float x) { return x == 2.0F; }));
    return 0;
  });
}

TEST_CASE("an editor changes what it says, and finds what there is") {
  on_toy_ranks(everything_on(Place::nvme, 2), [](auto& rank) {
    rank.train(0, 2);
    const std::uint64_t before = rank.hash();
    rank.engine().edit_states(
        [](const StatesEdit& edit) {
          std::ranges::fill(edit.master, std::numeric_limits<float>::quiet_NaN());
          return EditOutcome::unchanged;
        },
        {.buffer = small_buffer});
    CHECK(rank.hash() == before);

    rank.engine().edit_states([](const StatesEdit& edit) {  // moments are reset, masters stay
      for (const std::span<std::byte> states : edit.states) std::ranges::fill(states, std::byte{0});
      edit.updates = 0;
      return edit.states.empty() ? EditOutcome::unchanged : EditOutcome::changed;
    });
    CHECK(rank.hash() == before);
    rank.engine().for_each_state([](const StatesPiece& piece) {
      CHECK(piece.updates == 0);
      for (const auto states : piece.states) {
        CHECK(std::ranges::all_of(states, [](std::byte byte) { return byte == std::byte{0}; }));
      }
    });
    return 0;
  });
}

TEST_CASE("the updates of a parameter are counted alike on every rank, whoever holds it") {
  Configuration c = everything_on(Place::host, 3);
  c.partition = zerospan::Owners{};
  const Shown shown = shown_after(c, 3);
  for (const int ranks : {2, 3}) {
    Configuration to = everything_on(Place::host, ranks);
    to.training.ranks = ranks;
    const auto hashes = on_toy_ranks(to, [&](auto& rank) {
      rank.engine().edit_states([&](const StatesEdit& edit) { return restore(shown.states, edit); },
                                {.progress = shown.progress});
      rank.train(3, 5);
      return rank.hash();
    });
    CHECK(hashes[0] == hashes[1]);
    if (ranks == 3) CHECK(hashes[0] == on_toy_ranks(c, [](auto& rank) { return rank.train(0, 5), rank.hash(); })[0]);
  }
}

TEST_CASE("a loss scale goes on where it stood, within its rule") {
  using zerospan::LossScaleState;
  zerospan::HostDevice device{{.device_budget = Bytes{1 << 20}, .host_budget = Bytes{1 << 20}}};
  zerospan::DeviceTier tier{device};
  const auto with_rule = [&](const std::optional<zerospan::DynamicLossScale>& rule, const TrainingProgress& progress) {
    zerospan::SelfCommunicator self;
    zerospan::ZeroEngine engine{zerospan::Stage0{},
                                self,
                                device,
                                zerospan::Placement{tier, tier, tier},
                                zerospan::AdamW{},
                                zerospan::EngineOptions{.loss_scale = rule}};
    const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {5}, zerospan::init::zeros()};
    engine.edit_states([](const StatesEdit&) { return EditOutcome::unchanged; }, {.progress = progress});
    return engine.progress();
  };
  const zerospan::DynamicLossScale rule{.initial = 4.0F, .maximum = 64.0F};
  const TrainingProgress stood{.step = 9, .skipped_in_a_row = 1, .loss_scale = LossScaleState{16.0F, 3}};
  CHECK(with_rule(rule, stood) == stood);
  CHECK(with_rule(std::nullopt, stood) == TrainingProgress{.step = 9, .skipped_in_a_row = 1});
  CHECK(with_rule(rule, {.step = 9, .loss_scale = LossScaleState{1024.0F, 3}}).loss_scale->value == 64.0F);
  CHECK(with_rule(rule, {.step = 9}).loss_scale == LossScaleState{4.0F, 0});
  CHECK_THROWS_AS(with_rule(rule, {.step = -1}), ConfigurationError);
  CHECK_THROWS_AS(with_rule(rule, {.step = 1, .loss_scale = LossScaleState{0.0F, 0}}), ConfigurationError);
  CHECK_THROWS_AS(with_rule(rule, {.step = 1, .loss_scale = LossScaleState{3.0F, 0}}), ConfigurationError);
}

TEST_CASE("ranks that are told to go on from different steps are told so") {
  on_toy_ranks(everything_on(Place::host, 2), [](auto& rank) {
    CHECK_THROWS_WITH_AS(rank.engine().edit_states([](const StatesEdit&) { return EditOutcome::unchanged; },
                                                   {.progress = TrainingProgress{.step = rank.rank().value}}),
                         "ranks were told different things: the number of steps made is 0 on rank 0, and 1 on rank 1",
                         ConfigurationError);
    return 0;
  });
}

TEST_CASE("states are shown and edited between steps alone, in pieces that have room") {
  on_toy_ranks(everything_on(Place::host, 1), [](auto& rank) {
    auto& engine = rank.engine();
    const auto show = [](const StatesPiece&) {};
    const auto edit = [](const StatesEdit&) { return EditOutcome::unchanged; };
    const zerospan::PartitionedParameter<Array<float>> weight{engine, "last", {5}, zerospan::init::zeros()};
    CHECK_THROWS_AS(engine.for_each_state(show, Bytes{4096 * 12 - 1}), ConfigurationError);
    CHECK_THROWS_AS(engine.edit_states(edit, {.buffer = Bytes{0}}), ConfigurationError);
    {
      const auto held = weight.gather(zerospan::calling_thread);
      CHECK_THROWS_AS(engine.for_each_state(show), LeaseError);
      CHECK_THROWS_AS(engine.edit_states(edit), LeaseError);
    }
    weight.gradient(zerospan::calling_thread, zerospan::GradientContent::zeros).commit();
    CHECK_THROWS_AS(engine.for_each_state(show), LeaseError);
    CHECK_THROWS_AS(engine.edit_states(edit), LeaseError);
    engine.step();
    engine.for_each_state([&](const StatesPiece&) { CHECK_THROWS_AS(engine.for_each_state(show), LeaseError); });
    CHECK_THROWS_AS(engine.edit_states([](const StatesEdit& e) {
      e.updates = -1;
      return EditOutcome::unchanged;
    }),
                    ConfigurationError);
    return 0;
  });
}

struct Nameless {
  std::size_t state_bytes(std::size_t elements) const { return elements * sizeof(float); }
  void update(const zerospan::ShardUpdate&) const {}
};

struct NamesTooMuch : Nameless {
  std::array<zerospan::StateArray, 2> state_arrays() const { return {{{"a"}, {"b"}}}; }
};

/// States of 16 bits.
struct Halves : Nameless {
  std::array<zerospan::StateArray, 2> state_arrays() const {
    return {{{"low", zerospan::ElementType::bfloat16}, {"high", zerospan::ElementType::float16}}};
  }
  void update(const zerospan::ShardUpdate& shard) const {
    auto* const low = reinterpret_cast<std::uint16_t*>(shard.states) + shard.first;
    for (std::size_t i = 0; i < shard.elements; ++i) {
      low[i] = static_cast<std::uint16_t>(i + 1);
      low[shard.capacity + i] = static_cast<std::uint16_t>(i + 2);
    }
  }
};

template <class O>
void with_engine_of(const O& optimizer, const auto& f) {
  zerospan::HostDevice device{{.device_budget = Bytes{1 << 20}, .host_budget = Bytes{1 << 20}}};
  zerospan::ThreadedIoEngine io;
  zerospan::NvmeTier nvme{io, {.directory = std::filesystem::temp_directory_path().string()}};
  zerospan::DeviceTier tier{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage2{}, self, device, zerospan::Placement{tier, tier, nvme}, optimizer};
  const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {5000}, zerospan::init::zeros()};
  weight.gradient(zerospan::calling_thread, zerospan::GradientContent::zeros).commit();
  engine.step();
  f(engine);
}

TEST_CASE("an optimizer that does not say what its states are, or says it wrongly, is told so") {
  with_engine_of(Nameless{}, [](auto& engine) {
    CHECK_THROWS_WITH_AS(engine.for_each_state([](const StatesPiece&) {}),
                         doctest::Contains("does not say what its states are"), ConfigurationError);
  });
  with_engine_of(NamesTooMuch{}, [](auto& engine) {
    CHECK_THROWS_WITH_AS(engine.for_each_state([](const StatesPiece&) {}),
                         doctest::Contains("names states of 8192 bytes, and has 4096 bytes for 1024 elements"), ConfigurationError);
  });
}

TEST_CASE("states of 16 bits are shown and edited") {
  with_engine_of(Halves{}, [](auto& engine) {
    const auto sixteen = [](std::span<const std::byte> bytes, std::size_t i) {
      return reinterpret_cast<const std::uint16_t*>(bytes.data())[i];
    };
    engine.edit_states([](const StatesEdit& edit) {
      reinterpret_cast<std::uint16_t*>(edit.states[1].data())[7] = 99;
      return EditOutcome::changed;
    });
    std::size_t shown = 0;
    engine.for_each_state(
        [&](const StatesPiece& piece) {
          for (std::size_t i = 0; i < piece.master.size(); ++i) {
            const std::size_t at = piece.first + i;
            CHECK(sixteen(piece.states[0], i) == at + 1);
            CHECK(sixteen(piece.states[1], i) == (at == 7 ? 99 : at + 2));
          }
          shown += piece.master.size();
        },
        Bytes{4096 * 8});
    CHECK(shown == 5000);
  });
}

TEST_CASE("a device with memory and streams of its own shows and edits the same") {
  const Configuration c = everything_on(Place::device, 1);
  const Shown shown = shown_after(c, 2);
  for (const Place place : {Place::device, Place::host, Place::nvme}) {
    const auto check = [&](auto& rank) {
      rank.train(0, 2);
      ModelStates here;
      rank.engine().for_each_state([&](const StatesPiece& piece) { collect(here, piece); }, small_buffer);
      CHECK((here == shown.states));
      rank.train(2, 4);
      const std::uint64_t first = rank.hash();
      rank.engine().edit_states([&](const StatesEdit& edit) { return restore(shown.states, edit); },
                                {.progress = shown.progress});
      rank.train(2, 4);
      CHECK(rank.hash() == first);
    };
    zerospan_test::on_fake_toy_rank(everything_on(place, 1), check, everything_on(place, 1).training.optimizer);
  }
}

}  // namespace
