// Moments of 8 bits in an engine: equal bits however they are kept and cut, and wherever they are saved and loaded.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_toy_rank.hpp"
#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/small_rank.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"
#include "support/volatile_files.hpp"

namespace {

using zerospan::AdamW8bit;
using zerospan::Bytes;
using zerospan::CheckpointCheck;
using zerospan::ElementType;
using zerospan::LoadedCheckpoint;
using zerospan::SaveBy;
using zerospan::scaled_elements;
using zerospan::StateArray;
using zerospan::StatesEdit;
using zerospan::StatesPiece;
using zerospan_test::Configuration;
using zerospan_test::everything_on;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;

constexpr AdamW8bit optimizer{.learning_rate = 0.03F, .weight_decay = 0.1F};
constexpr Bytes small_buffer{std::size_t{25} << 10};  // 4096 elements

/// The ways to keep a model, and those that matter to few optimizers.
std::vector<Configuration> ways(int ranks, ElementType type) {
  std::vector<Configuration> result = zerospan_test::ways(ranks, type);
  result.push_back(everything_on(Place::nvme, ranks, type));
  result.back().training.master_weights = zerospan::MasterWeights::split;
  result.push_back(everything_on(Place::nvme, ranks, type));
  result.back().optimizer = Place::host;
  result.push_back(everything_on(Place::host, ranks, type));
  result.back().optimizer = Place::nvme;
  return result;
}

std::uint64_t hash_after(const Configuration& c, std::int64_t steps) {
  return on_toy_ranks(c, [&](auto& rank) { return rank.train(0, steps), rank.hash(); }, optimizer)[0];
}

TEST_CASE("training has equal bits however its states are kept") {
  zerospan_test::Sample sample{4};
  for (const int ranks : {1, 2, 3}) {
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
      const Configuration plain{.training = {.ranks = ranks}, .type = type, .stage = 0};
      const std::uint64_t expected = hash_after(plain, 3);
      CHECK(expected != on_toy_ranks(plain, [](auto& rank) { return rank.train(0, 3), rank.hash(); })[0]);
      for (const Configuration& c : ways(ranks, type)) {
        // Halves round otherwise than whole master weights, and are compared with halves.
        if (c.training.master_weights == zerospan::MasterWeights::split && type == ElementType::bfloat16) continue;
        if (!sample.takes()) continue;
        CAPTURE(c.describe());
        CHECK(hash_after(c, 3) == expected);
      }
    }
  }
}

TEST_CASE("master weights in halves are trained alike wherever they are") {
  Configuration c = everything_on(Place::nvme, 2, ElementType::bfloat16);
  c.training.master_weights = zerospan::MasterWeights::split;
  Configuration plain{.training = c.training, .type = c.type, .stage = 0};
  CHECK(hash_after(c, 3) == hash_after(plain, 3));
}

/// What an engine does on one parameter, without an engine: sums in rank order, then one update of all of it.
template <class Gradient>
std::vector<float> replicated(std::size_t elements, int ranks, std::int64_t steps, Gradient gradient) {
  const std::size_t capacity = zerospan::round_up(elements, zerospan::block_elements);
  std::vector<float> master(elements, 1.0F);
  std::vector<float> sum(elements);
  std::vector<std::byte> states(optimizer.state_bytes(capacity));
  for (std::int64_t step = 1; step <= steps; ++step) {
    for (std::size_t i = 0; i < elements; ++i) {
      sum[i] = gradient(0, step, i);
      for (int rank = 1; rank < ranks; ++rank) sum[i] += gradient(rank, step, i);
    }
    optimizer.update({.master = master.data(),
                      .states = states.data(),
                      .capacity = capacity,
                      .first = 0,
                      .elements = elements,
                      .gradient = reinterpret_cast<const std::byte*>(sum.data()),
                      .gradient_type = ElementType::float32,
                      .parameter = reinterpret_cast<std::byte*>(master.data()),
                      .parameter_type = ElementType::float32,
                      .gradient_scale = 1.0F / static_cast<float>(ranks),
                      .step = step,
                      .group = {}});
  }
  return master;
}

float gradient_of(int rank, std::int64_t step, std::size_t i) {
  const auto phase = static_cast<std::uint32_t>(i * 2654435761U + static_cast<std::size_t>(step * 97 + rank * 31));
  return (static_cast<float>(phase % 1021) / 510.0F - 1.0F) * (i % 700 == 3 ? 1e3F : 1.0F);
}

TEST_CASE("an engine's ranks update as one that has all of it") {
  constexpr std::size_t elements = 9000;
  constexpr std::int64_t steps = 5;
  for (const int ranks : {1, 2, 3}) {
    const std::vector<float> expected = replicated(elements, ranks, steps, &gradient_of);
    for (const int stage : {0, 1, 2, 3}) {
      CAPTURE(ranks);
      CAPTURE(stage);
      const auto masters = zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
        zerospan::HostDevice device{{.device_budget = Bytes{4 << 20}, .host_budget = Bytes{4 << 20}}};
        zerospan::HostTier host{device};
        zerospan::DeviceTier on_device{device};
        zerospan_test::AnyEngine engine{stage,     communicator,
                                        device,    zerospan::Placement{on_device, on_device, host},
                                        optimizer, {.persistence_threshold = Bytes{0}, .sub_group_elements = 4096}};
        const zerospan::PartitionedParameter<zerospan_test::Array<float>> weight{
            engine, "weight", zerospan::Shape{elements}, zerospan::init::ones()};
        for (std::int64_t step = 1; step <= steps; ++step) {
          static_cast<void>(weight.gather(zerospan::calling_thread));
          auto lease = weight.gradient(zerospan::calling_thread);
          for (std::size_t i = 0; i < elements; ++i)
            lease->data[i] = gradient_of(communicator.rank().value, step, i);
          lease.commit();
          engine.step();
        }
        std::vector<float> all;
        engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
          all.insert(all.end(), values.begin(), values.end());
        });
        return all;
      });
      for (const std::vector<float>& master : masters) CHECK(master == expected);
    }
  }
}

/// All that training knows of a parameter, in bytes.
struct Whole {
  std::vector<float> master;
  std::array<std::vector<std::byte>, 4> states;
  std::int64_t updates = 0;

  friend bool operator==(const Whole&, const Whole&) = default;
};

using Model = std::map<std::string, Whole, std::less<>>;

constexpr zerospan::ElementWidth width_of(std::size_t array) {
  return array < 2 ? zerospan::ElementWidth{1} : zerospan::ElementWidth{sizeof(float), scaled_elements};
}

template <class Rank>
void collect_from(Rank& rank, Model& model, std::mutex& mutex) {
  rank.engine().for_each_state(
      [&](const StatesPiece& piece) {
        const std::scoped_lock lock{mutex};
        Whole& whole = model[std::string{piece.parameter}];
        const std::size_t elements = piece.shape.elements();
        whole.master.resize(elements);
        whole.updates = piece.updates;
        std::ranges::copy(piece.master, whole.master.begin() + static_cast<std::ptrdiff_t>(piece.first));
        REQUIRE(piece.states.size() == (piece.training == zerospan::Training::frozen ? 0 : 4));
        for (std::size_t s = 0; s < piece.states.size(); ++s) {
          whole.states[s].resize(width_of(s).of(elements));
          REQUIRE(piece.states[s].size() == width_of(s).of(piece.master.size()));
          std::memcpy(whole.states[s].data() + width_of(s).of(piece.first), piece.states[s].data(),
                      piece.states[s].size());
        }
      },
      small_buffer);
}

zerospan::EditOutcome restore(const Model& model, const StatesEdit& edit) {
  const Whole& whole = model.at(std::string{edit.parameter});
  std::copy_n(whole.master.begin() + static_cast<std::ptrdiff_t>(edit.first), edit.master.size(), edit.master.begin());
  for (std::size_t s = 0; s < edit.states.size(); ++s) {
    std::memcpy(edit.states[s].data(), whole.states[s].data() + width_of(s).of(edit.first), edit.states[s].size());
  }
  edit.updates = whole.updates;
  return zerospan::EditOutcome::changed;
}

Model shown_after(const Configuration& c, std::int64_t steps) {
  Model model;
  std::mutex mutex;
  on_toy_ranks(c, [&](auto& rank) { return rank.train(0, steps), collect_from(rank, model, mutex), 0; }, optimizer);
  return model;
}

TEST_CASE("states are shown as they are, and a training that is shown to another engine goes on there") {
  zerospan_test::Sample sample{4};
  for (const int ranks : {1, 3}) {
    const auto type = ElementType::float32;
    const Configuration plain{.training = {.ranks = ranks}, .type = type, .stage = 0};
    const Model expected = shown_after(plain, 2);
    CHECK(std::ranges::any_of(expected.at("wide").states[2], [](std::byte b) { return b != std::byte{0}; }));
    const std::uint64_t hash = hash_after(plain, 4);
    for (const Configuration& c : ways(ranks, type)) {
      if (!sample.takes()) continue;
      CAPTURE(c.describe());
      CHECK((shown_after(c, 2) == expected));
      const auto hashes = on_toy_ranks(
          c,
          [&](auto& rank) {
            rank.train(0, 1);  // what is there is written over
            rank.engine().edit_states([&](const StatesEdit& edit) { return restore(expected, edit); },
                                      {.content = zerospan::WriteContent::undefined,
                                       .progress = zerospan::TrainingProgress{.step = 2},
                                       .buffer = small_buffer});
            Model now;
            std::mutex mutex;
            if (ranks == 1) {
              collect_from(rank, now, mutex);
              CHECK((now == expected));
            }
            rank.train(2, 4);
            return rank.hash();
          },
          optimizer);
      CHECK(hashes[0] == hash);
    }
  }
}

void save_after(const Configuration& c, std::int64_t steps, const std::string& directory, SaveBy by) {
  on_toy_ranks(
      c,
      [&](auto& rank) {
        rank.train(0, steps);
        zerospan::save_checkpoint(rank.engine(), directory, {.buffer = small_buffer, .by = by});
        return 0;
      },
      optimizer);
}

/// The hashes of a training that goes on from a checkpoint: at once, and after the steps up to `last`.
std::pair<std::uint64_t, std::uint64_t> resumed(const Configuration& c, const std::string& directory,
                                                std::int64_t last) {
  return on_toy_ranks(
      c,
      [&](auto& rank) {
        const auto check = c.stage % 2 == 0 ? CheckpointCheck::before_changes : CheckpointCheck::while_loading;
        const LoadedCheckpoint loaded =
            zerospan::load_checkpoint(rank.engine(), directory, {.check = check, .buffer = small_buffer});
        CHECK(loaded.optimizer == "AdamW8bit");
        CHECK(loaded.without_states.empty());
        const std::uint64_t at_once = rank.hash();
        rank.train(loaded.step, last);
        return std::pair{at_once, rank.hash()};
      },
      optimizer)[0];
}

TEST_CASE("what two ranks have saved is loaded by any number of ranks, wherever they keep it") {
  zerospan_test::Sample sample{5};
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    for (const SaveBy by : {SaveBy::linking, SaveBy::copying}) {
      for (const Place place : {Place::nvme, Place::host}) {
        const ScratchDirectory directory;
        const Configuration from = everything_on(place, 2, type);
        save_after(from, 2, directory.path(), by);
        const std::uint64_t hash = hash_after(from, 2);
        for (const int ranks : {1, 2, 3}) {
          const Configuration plain{.training = {.ranks = ranks}, .type = type, .stage = 0};
          const auto expected = resumed(plain, directory.path(), 4);
          CHECK(expected.first == hash);
          if (ranks == 2) CHECK(expected.second == hash_after(from, 4));
          for (const Configuration& to : ways(ranks, type)) {
            const bool are_halves = to.training.master_weights == zerospan::MasterWeights::split;
            if (are_halves && type == ElementType::bfloat16) continue;
            if (!sample.takes()) continue;
            CAPTURE(to.describe());
            CHECK(resumed(to, directory.path(), 4) == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("another optimizer's states are refused, and by a partial load left out") {
  const ScratchDirectory directory;
  const Configuration c = everything_on(Place::host, 1);
  save_after(c, 1, directory.path(), SaveBy::copying);
  on_toy_ranks(c, [&](auto& rank) {
    CHECK_THROWS_WITH_AS(zerospan::load_checkpoint(rank.engine(), directory.path()),
                         doctest::Contains("it has the states of another optimizer: of AdamW8bit (exp_avg, exp_avg_sq, "
                                           "exp_avg_scale, exp_avg_sq_scale), not of AdamW (exp_avg, exp_avg_sq)"),
                         zerospan::CheckpointError);
    const LoadedCheckpoint loaded =
        zerospan::load_checkpoint(rank.engine(), directory.path(), {.match = zerospan::CheckpointMatch::partial});
    CHECK(loaded.without_states.size() + loaded.taken.size() == zerospan_test::layers.size());
    return 0;
  });
}

TEST_CASE("a checkpoint with a part of what shares a scale is refused") {
  zerospan_test::VolatileFiles files;
  zerospan::run_ranks(1, [&](zerospan::ThreadCommunicator communicator) {
    zerospan_test::SmallRank rank{communicator, zerospan_test::large_and_small, optimizer};
    rank.step();
    zerospan::save_checkpoint(rank.engine(), "/run", {.files = &files});
    const auto text_of = [&](const std::string& path) {
      const std::vector<std::byte>& bytes = files.bytes_of(path);
      return std::string{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    };
    const auto set = [&](const std::string& path, std::string_view text) {
      const auto bytes = std::as_bytes(std::span{text});
      files.bytes_of(path).assign(bytes.begin(), bytes.end());
    };
    const std::string manifest_path = "/run/step-1/manifest.json";
    const std::string part_path = "/run/step-1/rank-0.json";
    auto manifest = zerospan::detail::parse_manifest(text_of(manifest_path), manifest_path);
    auto part = zerospan::detail::parse_part(text_of(part_path), part_path);
    auto& scales = part.pieces.at(0).components.at(3);
    zerospan::detail::StoredExtent second = scales.at(0);
    scales[0].elements = scaled_elements / 2;
    second.first += scales[0].elements;
    second.elements -= scales[0].elements;
    scales.insert(scales.begin() + 1, second);
    const std::string changed = zerospan::detail::part_text(part, part_path);
    set(part_path, changed);
    manifest.parts[0] = {changed.size(), zerospan::detail::checksum(std::string_view{changed})};
    set(manifest_path, zerospan::detail::manifest_text(manifest, manifest_path));
    CHECK_THROWS_WITH_AS(zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files}),
                         doctest::Contains("an extent has a part of what shares a scale"), zerospan::CheckpointError);
    return 0;
  });
}

/// Names its states in an order that engines do not take.
struct ScalesFirst {
  static constexpr bool updates_on_host = true;
  static constexpr std::array arrays{StateArray{"scale", ElementType::float32, zerospan::StateForm::scales},
                                     StateArray{"code", ElementType::float32, zerospan::StateForm::codes}};

  std::size_t state_bytes(std::size_t elements) const { return elements + elements / scaled_elements * sizeof(float); }
  std::span<const StateArray> state_arrays() const { return arrays; }
  void update(const zerospan::ShardUpdate&) const {}
};

TEST_CASE("scales that are not named last are refused") {
  on_toy_ranks(
      everything_on(Place::host, 1),
      [&](auto& rank) {
        CHECK_THROWS_WITH_AS(rank.engine().for_each_state([](const StatesPiece&) {}),
                             doctest::Contains("names an array behind its scales: these are to be last"),
                             zerospan::ConfigurationError);
        return 0;
      },
      ScalesFirst{});
}

TEST_CASE("a device with memory and streams of its own has it run by the host") {
  const std::uint64_t expected = hash_after(everything_on(Place::device, 1), 3);
  const Model shown = shown_after(everything_on(Place::device, 1), 3);
  for (const Place place : {Place::device, Place::host, Place::nvme}) {
    const auto check = [&](auto& rank) {
      rank.train(0, 3);
      CHECK(rank.hash() == expected);
      Model here;
      std::mutex mutex;
      collect_from(rank, here, mutex);
      CHECK((here == shown));
    };
    zerospan_test::on_fake_toy_rank(everything_on(place, 1), check, optimizer);
  }
}

}  // namespace
