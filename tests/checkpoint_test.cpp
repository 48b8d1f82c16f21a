#include <doctest/doctest.h>

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/zerospan.hpp>

#include "support/child_process.hpp"
#include "support/forwarded_files.hpp"
#include "support/own_mounts.hpp"
#include "support/process_limits.hpp"
#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/small_rank.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"
#include "support/volatile_files.hpp"

namespace {

using zerospan::Bytes;
using zerospan::CheckpointCheck;
using zerospan::CheckpointError;
using zerospan::CheckpointMatch;
using zerospan::ElementType;
using zerospan::LoadedCheckpoint;
using zerospan::MasterWeights;
using zerospan::SavedCheckpoint;
using zerospan::SaveOptions;
using zerospan_test::AnyEngine;
using zerospan_test::Configuration;
using zerospan_test::Declared;
using zerospan_test::everything_on;
using zerospan_test::large_and_small;
using zerospan_test::on_small_ranks;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;
using zerospan_test::SmallRank;
using zerospan_test::VolatileFiles;
using zerospan_test::ways;

constexpr Bytes small_buffer{std::size_t{48} << 10};  // 4096 elements of AdamW's

/// Trains so many steps and saves. @return The hash of the master weights, and what was saved by each rank.
std::pair<std::uint64_t, std::vector<SavedCheckpoint>> save_after(const Configuration& c, std::int64_t steps,
                                                                  const std::string& directory) {
  const auto ranks = on_toy_ranks(c, [&](auto& rank) {
    rank.train(0, steps);
    SavedCheckpoint saved = zerospan::save_checkpoint(rank.engine(), directory, {.buffer = small_buffer});
    return std::pair{rank.hash(), std::move(saved)};
  });
  std::vector<SavedCheckpoint> saved;
  for (const auto& rank : ranks) saved.push_back(rank.second);
  return {ranks[0].first, saved};
}

/// The hashes of a training that goes on from a checkpoint: at once, and after the steps up to `last`. Checksums are
/// compared before or meanwhile, by the stage.
std::pair<std::uint64_t, std::uint64_t> resumed(const Configuration& c, const std::string& directory,
                                                std::int64_t last) {
  return on_toy_ranks(c, [&](auto& rank) {
    const auto check = c.stage % 2 == 0 ? CheckpointCheck::before_changes : CheckpointCheck::while_loading;
    const LoadedCheckpoint loaded =
        zerospan::load_checkpoint(rank.engine(), directory, {.check = check, .buffer = small_buffer});
    const std::uint64_t at_once = rank.hash();
    rank.train(loaded.step, last);
    return std::pair{at_once, rank.hash()};
  })[0];
}

std::uint64_t uninterrupted(const Configuration& c, std::int64_t steps) {
  return on_toy_ranks(c, [&](auto& rank) { return rank.train(0, steps), rank.hash(); })[0];
}

/// Saves in each way, and goes on in those that are so many places further in the list.
void check_ways(std::initializer_list<std::size_t> distances) {
  zerospan_test::Sample sample{4};
  for (const auto& [type, master_weights] : {std::pair{ElementType::float32, MasterWeights::whole},
                                             std::pair{ElementType::bfloat16, MasterWeights::whole},
                                             std::pair{ElementType::bfloat16, MasterWeights::split}}) {
    std::vector<Configuration> all = ways(2, type);
    for (Configuration& each : all) each.training.master_weights = master_weights;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!sample.takes()) continue;
      const ScratchDirectory directory;
      const auto [hash, saved] = save_after(all[i], 2, directory.path());
      const std::uint64_t expected = uninterrupted(all[i], 4);
      for (const std::size_t distance : distances) {
        const Configuration& to = all[(i + distance) % all.size()];
        CAPTURE(all[i].describe());
        CAPTURE(to.describe());
        CHECK(resumed(to, directory.path(), 4) == std::pair{hash, expected});
      }
    }
  }
}

TEST_CASE("some steps, a save, and as many more elsewhere are all the steps at once, to the bit") {
  check_ways({1, 4});
}

TEST_CASE("from each way to each" * doctest::skip()) { check_ways({0, 1, 2, 3, 4, 5, 6}); }

TEST_CASE("what four ranks have saved from their disks is loaded by another number of ranks, wherever they keep it") {
  zerospan_test::Sample sample{3};
  const ScratchDirectory directory;
  const auto [hash, saved] = save_after(everything_on(Place::nvme, 4, ElementType::bfloat16), 2, directory.path());
  for (const int ranks : {1, 2, 3}) {
    Configuration plain{.training = {.ranks = ranks}, .type = ElementType::bfloat16, .stage = 0};
    const auto expected = resumed(plain, directory.path(), 4);
    CHECK(expected.first == hash);
    for (const Configuration& to : ways(ranks, ElementType::bfloat16)) {
      if (!sample.takes()) continue;
      CAPTURE(to.describe());
      CHECK(resumed(to, directory.path(), 4) == expected);
    }
  }
}

TEST_CASE("master weights that were saved in halves are loaded whole, and the other way round") {
  for (const MasterWeights saved_as : {MasterWeights::split, MasterWeights::whole}) {
    const ScratchDirectory directory;
    Configuration from = everything_on(Place::nvme, 2, ElementType::bfloat16);
    from.training.master_weights = saved_as;
    const auto [hash, saved] = save_after(from, 2, directory.path());
    std::vector<std::uint64_t> afterwards;
    for (const int stage : {0, 3}) {
      Configuration to = stage == 0 ? Configuration{.training = {.ranks = 3}, .type = ElementType::bfloat16, .stage = 0}
                                    : everything_on(Place::nvme, 3, ElementType::bfloat16);
      to.training.master_weights = saved_as == MasterWeights::split ? MasterWeights::whole : MasterWeights::split;
      const auto [at_once, after] = resumed(to, directory.path(), 4);
      CHECK(at_once == hash);
      afterwards.push_back(after);
    }
    CHECK(afterwards[0] == afterwards[1]);
  }
}

TEST_CASE("whatever stands where the disk is, it is saved and loaded") {
  using zerospan_test::Disk;
  const ScratchDirectory directory;
  const Configuration plain = everything_on(Place::nvme, 2, ElementType::bfloat16);
  std::uint64_t before = uninterrupted(plain, 2);
  for (const Disk disk : {Disk::checked, Disk::cached, Disk::striped}) {
    Configuration c = plain;
    c.disk = disk;
    CAPTURE(c.describe());
    CHECK(save_after(c, 2, directory.path()).first == before);
    CHECK(resumed(c, directory.path(), 4) == std::pair{before, uninterrupted(plain, 4)});
  }
}

TEST_CASE("states of which a share rests elsewhere are saved and loaded like others") {
  const ScratchDirectory directory;
  const auto train = [&](bool is_shared, const auto& f) {
    return zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
      zerospan::HostDevice device{{.device_budget = Bytes{4 << 20}, .host_budget = Bytes{4 << 20}}};
      zerospan::DeviceTier on_device{device};
      zerospan::HostTier on_host{device};
      zerospan::Placement placement{on_device, on_device, on_host};
      if (is_shared) placement.optimizer_share = zerospan::TierShare{on_device, 0.5};
      AnyEngine engine{3,         communicator,      device,
                       placement, zerospan::AdamW{}, {.persistence_threshold = Bytes{0}, .sub_group_elements = 4096}};
      const zerospan_test::ToyModel<float> model{engine};
      const auto step = [&](std::int64_t number) {
        model.backward(zerospan_test::full_route(), {communicator.rank().value, number, 0});
        engine.step();
      };
      f(engine, step);
      return zerospan_test::hash_masters(engine);
    })[0];
  };
  const std::uint64_t expected = train(false, [](AnyEngine&, const auto& step) { step(0), step(1); });
  train(true, [&](AnyEngine& engine, const auto& step) {
    step(0);
    zerospan::save_checkpoint(engine, directory.path(), {.buffer = small_buffer});
  });
  for (const bool is_shared : {false, true}) {
    CHECK(train(is_shared, [&](AnyEngine& engine, const auto& step) {
            zerospan::load_checkpoint(engine, directory.path());
            step(1);
          }) == expected);
  }
}

TEST_CASE("what is trained is the same in a model of another element type, and frozen values where they fit into it") {
  const ScratchDirectory directory;
  const auto [hash, saved] = save_after(everything_on(Place::host, 2, ElementType::bfloat16), 2, directory.path());
  CHECK(resumed(everything_on(Place::nvme, 3, ElementType::float32), directory.path(), 2).first == hash);
  const auto states_in = [&](ElementType type) {
    zerospan_test::ModelStates states;
    on_toy_ranks(everything_on(Place::nvme, 1, type), [&](auto& rank) {
      zerospan::load_checkpoint(rank.engine(), directory.path());
      rank.engine().for_each_state([&](const zerospan::StatesPiece& piece) {
        if (piece.training == zerospan::Training::trainable) collect(states, piece);
      });
      return 0;
    });
    return states;
  };
  CHECK((states_in(ElementType::float16) == states_in(ElementType::bfloat16)));
}

TEST_CASE("what several ranks hold is written by one of them, and all of them write") {
  std::size_t expected = 0;
  for (const auto& layer : zerospan_test::layers) {
    expected += layer.elements * (layer.options.training == zerospan::Training::frozen ? 2 : 12);
  }
  for (const Configuration& c : ways(3, ElementType::bfloat16)) {
    CAPTURE(c.describe());
    const ScratchDirectory directory;
    const auto [hash, saved] = save_after(c, 1, directory.path());
    std::size_t data = 0;
    for (std::size_t rank = 0; rank < 3; ++rank) {
      const std::filesystem::path path = saved[rank].path;
      const std::size_t own = std::filesystem::file_size(path / ("rank-" + std::to_string(rank) + ".data"));
      CHECK(own + saved[rank].linked.count > expected / 8);
      CHECK(saved[rank].written.count ==
            own + std::filesystem::file_size(path / ("rank-" + std::to_string(rank) + ".json")));
      data += own + saved[rank].linked.count;
    }
    CHECK(data == expected);
  }
}

TEST_CASE("each rank's host gets the bytes of all of them back") {
  const ScratchDirectory directory;
  on_toy_ranks(everything_on(Place::host, 3), [&](auto& rank) {
    const std::vector<std::byte> mine(static_cast<std::size_t>(rank.rank().value) * 5, std::byte{7});
    zerospan::save_checkpoint(rank.engine(), directory.path(), {.host_bytes = mine});
    return 0;
  });
  on_toy_ranks(everything_on(Place::host, 2), [&](auto& rank) {
    const LoadedCheckpoint loaded = zerospan::load_checkpoint(rank.engine(), directory.path());
    CHECK(loaded.ranks == 3);
    CHECK(loaded.seed == 3);
    CHECK(loaded.optimizer == "AdamW");
    CHECK(loaded.step == 0);
    CHECK(loaded.path == directory.path() + "/step-0");
    CHECK(loaded.taken.size() == zerospan_test::layers.size());
    REQUIRE(loaded.host_bytes.size() == 3);
    for (std::size_t r = 0; r < 3; ++r) CHECK(loaded.host_bytes[r] == std::vector<std::byte>(r * 5, std::byte{7}));
    return 0;
  });
}

TEST_CASE("replicas of the shards in groups of ranks save once, and load each") {
  const ScratchDirectory directory;
  const auto train = [&](const auto& f) {
    return zerospan::run_ranks(4, [&](zerospan::ThreadCommunicator threads) {
      zerospan::HybridCommunicator ranks{zerospan::split_into_groups(threads, 2)};
      SmallRank rank{ranks, {{"large", {30000}}}};
      f(rank);
      return rank.hash();
    });
  };
  const auto saved = train([&](SmallRank& rank) {
    rank.step();
    zerospan::save_checkpoint(rank.engine(), directory.path());
  });
  std::size_t bytes = 0;
  for (int rank = 0; rank < 4; ++rank) {
    bytes += std::filesystem::file_size(directory.path() + "/step-1/rank-" + std::to_string(rank) + ".data");
  }
  CHECK(bytes == std::size_t{30000} * 12);
  CHECK(train([&](SmallRank& rank) { zerospan::load_checkpoint(rank.engine(), directory.path()); }) == saved);
}

/// The hashes of a small training on so many ranks after each number of steps.
std::vector<std::uint64_t> hashes_of_steps(int ranks, int steps) {
  return on_small_ranks(ranks, [&](SmallRank& rank, auto&) {
    std::vector<std::uint64_t> hashes{rank.hash()};
    for (int step = 0; step < steps; ++step) {
      rank.step();
      hashes.push_back(rank.hash());
    }
    return hashes;
  })[0];
}

std::vector<std::string> checkpoints_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

TEST_CASE("a directory keeps as many checkpoints as it is told to, and the new one in any case") {
  const ScratchDirectory directory;
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    const auto save = [&] { return zerospan::save_checkpoint(rank.engine(), directory.path(), {.keep = 3}); };
    for (int step = 0; step < 12; ++step) {
      rank.step();
      CHECK(save().not_removed.empty());
    }
    CHECK(checkpoints_in(directory.path()) == std::vector<std::string>{"step-10", "step-11", "step-12"});
    CHECK(zerospan::find_checkpoint(rank.engine(), directory.path()) == 12);

    zerospan::load_checkpoint(rank.engine(), directory.path(), {.step = 10});
    CHECK(save().path == directory.path() + "/step-10.1");
    CHECK(checkpoints_in(directory.path()) == std::vector<std::string>{"step-10.1", "step-11", "step-12"});
    CHECK(zerospan::find_checkpoint(rank.engine(), directory.path()) == 10);
    CHECK(zerospan::find_checkpoint(rank.engine(), directory.path(), {.step = 11}) == 11);
    CHECK(!zerospan::find_checkpoint(rank.engine(), directory.path(), {.step = 9}));

    std::filesystem::remove(directory.path() + "/latest");
    CHECK(zerospan::find_checkpoint(rank.engine(), directory.path()) == 12);
    return 0;
  });
}

TEST_CASE("a checkpoint goes where the path leads: through links, and into directories that are made") {
  const ScratchDirectory scratch;
  std::filesystem::create_directory(scratch.path() + "/elsewhere");
  std::filesystem::create_directory_symlink("elsewhere", scratch.path() + "/link");
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    for (const std::string name : {"/link", "/a/b/c", "/d/"}) {
      zerospan::save_checkpoint(rank.engine(), scratch.path() + name, {.keep = 1});
      zerospan::save_checkpoint(rank.engine(), scratch.path() + name, {.keep = 1});
      CHECK(zerospan::find_checkpoint(rank.engine(), scratch.path() + name) == 0);
      zerospan::load_checkpoint(rank.engine(), scratch.path() + name);
    }
    return 0;
  });
  CHECK(std::filesystem::is_symlink(scratch.path() + "/link"));
  CHECK(checkpoints_in(scratch.path() + "/elsewhere") == std::vector<std::string>{"step-0.1"});
}

TEST_CASE("nothing is found where nothing was saved, and loading it is an error") {
  const ScratchDirectory directory;
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    for (const std::string& path : {directory.path(), directory.path() + "/none"}) {
      CHECK(!zerospan::find_checkpoint(rank.engine(), path));
      CHECK_THROWS_WITH_AS(zerospan::load_checkpoint(rank.engine(), path),
                           (path + ": there is no complete checkpoint in this directory").c_str(), CheckpointError);
    }
    CHECK_THROWS_AS(zerospan::save_checkpoint(rank.engine(), ""), zerospan::ConfigurationError);
    return 0;
  });
  CHECK(directory.is_empty());
}

/// What a call throws, on this rank.
CheckpointError error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const CheckpointError& error) {
    return error;
  }
  throw std::logic_error{"it throws no CheckpointError"};
}

TEST_CASE("a job is told that another one saves into its directory") {
  const ScratchDirectory directory;
  on_small_ranks(2, [&](SmallRank& rank, auto& communicator) {
    zerospan::FileSystem files;
    const auto save = [&] { zerospan::save_checkpoint(rank.engine(), directory.path()); };
    std::unique_ptr<zerospan::CheckpointFiles::Lock> another;
    if (communicator.rank().value == 1) another = files.lock(directory.path() + "/lock");
    communicator.barrier({zerospan::calling_thread, "the other job saves"});
    const CheckpointError error = error_of(save);
    CHECK(error.file() == directory.path() + "/lock");
    CHECK(std::string_view{error.what()}.ends_with("another job is saving into this directory"));
    communicator.barrier({zerospan::calling_thread, "both were told"});
    another.reset();
    communicator.barrier({zerospan::calling_thread, "the other job has saved"});
    save();
    return 0;
  });
}

TEST_CASE("a path that is no directory is told on all ranks") {
  const ScratchDirectory scratch;
  std::ofstream{scratch.path() + "/file"} << "text";
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    const std::string path = scratch.path() + "/file";
    const CheckpointError error = error_of([&] { zerospan::save_checkpoint(rank.engine(), path); });
    CHECK(error.file() == path);
    CHECK(error.error_number() == EEXIST);
    CHECK_THROWS_AS(zerospan::load_checkpoint(rank.engine(), path), CheckpointError);
    return 0;
  });
}

/// Saves a training of two ranks at step 1, then has `fault` befall the save of step 2. Whatever it is, the training
/// goes on, and a later one finds a checkpoint that is whole.
struct Befallen {
  static constexpr int ranks = 2;
  static const std::vector<std::uint64_t>& expected() {
    static const std::vector<std::uint64_t> hashes = hashes_of_steps(ranks, 4);
    return hashes;
  }

  bool is_on_disk = false;       ///< Its states are, and are linked.
  bool trains_meanwhile = false;  ///< It makes a step while the checkpoint is written.
  VolatileFiles files{};
  bool has_failed = false;

  template <class F>
  auto train(F f) {
    const ScratchDirectory disk;
    files.allow_links(is_on_disk);
    return on_small_ranks(ranks, f, large_and_small, {.disk = is_on_disk ? disk.path() : ""});
  }

  void save_two(const std::function<void()>& fault) {
    train([&](SmallRank& rank, auto& communicator) {
      const SaveOptions options{.keep = 1, .files = &files};
      rank.step();
      const SavedCheckpoint saved = zerospan::save_checkpoint(rank.engine(), "/run", options);
      CHECK((saved.linked > Bytes{0}) == is_on_disk);
      rank.step();
      communicator.barrier({zerospan::calling_thread, "before the fault"});
      if (communicator.rank().value == 0) fault();
      communicator.barrier({zerospan::calling_thread, "the fault is there"});
      bool failed = false;
      try {
        zerospan::CheckpointSaver saver{rank.engine(), "/run"};
        saver.start(options);
        if (trains_meanwhile) rank.step();
        saver.wait();
      } catch (const CheckpointError& error) {
        failed = true;
        CHECK(error.error_number() != 0);
        CHECK(!error.file().empty());
      }
      std::int64_t fails = failed ? 1 : 0;
      communicator.all_reduce({zerospan::calling_thread, "who has failed"}, std::span{&fails, 1});
      CHECK(fails == (failed ? ranks : 0));
      if (communicator.rank().value == 0) has_failed = failed;
      if (rank.engine().progress().step == 2) rank.step();
      CHECK(rank.hash() == expected()[3]);
      return 0;
    });
  }

  /// @return The step that is found.
  std::int64_t resume() {
    return train([&](SmallRank& rank, auto&) {
      const LoadedCheckpoint loaded = zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files});
      CHECK(rank.hash() == expected().at(static_cast<std::size_t>(loaded.step)));
      rank.step();
      CHECK(rank.hash() == expected().at(static_cast<std::size_t>(loaded.step) + 1));
      zerospan::save_checkpoint(rank.engine(), "/run", {.keep = 1, .files = &files});
      CHECK(zerospan::find_checkpoint(rank.engine(), "/run", {.files = &files}) == loaded.step + 1);
      return loaded.step;
    })[0];
  }
};

/// Under a sanitizer one operation of so many fails.
constexpr std::size_t one_of = zerospan_test::is_sanitized ? 3 : 1;

TEST_CASE("whichever operation of a save fails, all ranks are told, and training goes on from either checkpoint") {
  for (const auto& [is_full, is_on_disk, trains_meanwhile] :
       {std::array{false, false, false}, {true, false, true}, {false, true, false}}) {
    std::size_t operation = 0;
    for (std::size_t in_a_row = 0; in_a_row < 3; operation += one_of) {
      CAPTURE(operation);
      CAPTURE(is_full);
      CAPTURE(is_on_disk);
      Befallen training{.is_on_disk = is_on_disk, .trains_meanwhile = trains_meanwhile};
      training.save_two([&, fills_up = is_full] {
        fills_up ? training.files.fill_up_at(operation) : training.files.fail_at(operation, EIO);
      });
      in_a_row = training.has_failed ? 0 : in_a_row + 1;
      training.files.recover();
      const std::int64_t step = training.resume();
      CHECK((step == 1 || step == 2));
      if (!training.has_failed) CHECK(step == 2);
      REQUIRE(operation < 200);
    }
    CHECK(operation > 30);
  }
}

/// Loses the power at each operation of a save.
/// @param ways_to_lose In how many: first all that was not synced is lost, then some of it.
void check_losses_of_power(std::uint64_t ways_to_lose, bool is_on_disk) {
  std::array<int, 3> found{};
  std::size_t operation = 0;
  for (bool has_failed = true; has_failed; operation += one_of) {
    for (std::uint64_t survivors = 0; survivors < ways_to_lose; ++survivors) {
      CAPTURE(operation);
      CAPTURE(survivors);
      CAPTURE(is_on_disk);
      Befallen training{.is_on_disk = is_on_disk, .trains_meanwhile = operation % 2 == 0};
      training.save_two([&] { training.files.lose_power_at(operation); });
      has_failed = training.has_failed;
      training.files.restart(survivors == 0 ? std::nullopt : std::optional{operation * ways_to_lose + survivors});
      const std::int64_t step = training.resume();
      REQUIRE((step == 1 || step == 2));
      if (!has_failed) CHECK(step == 2);
      ++found[static_cast<std::size_t>(step)];
    }
    REQUIRE(operation < 200);
  }
  CHECK(found[1] > 0);
  CHECK(found[2] > 0);
}

TEST_CASE("whenever the power is lost during a save, what is found then is whole") {
  for (const bool is_on_disk : {false, true}) check_losses_of_power(2, is_on_disk);
}

TEST_CASE("whatever survives a loss of power" * doctest::skip()) {
  for (const bool is_on_disk : {false, true}) check_losses_of_power(20, is_on_disk);
}

/// A checkpoint that two ranks have saved after two steps, to be damaged.
struct Saved {
  VolatileFiles files;
  std::string path = "/run/step-2";

  explicit Saved(const std::vector<Declared>& model = large_and_small) {
    zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
      SmallRank rank{communicator, model};
      rank.step();
      rank.step();
      zerospan::save_checkpoint(rank.engine(), "/run",
                                {.host_bytes = std::as_bytes(std::span{"host"}), .files = &files});
      return 0;
    });
  }

  std::string text_of(const std::string& file) {
    const std::vector<std::byte>& bytes = files.bytes_of(path + "/" + file);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  void set(const std::string& file, std::string_view text) {
    const auto bytes = std::as_bytes(std::span{text});
    files.bytes_of(path + "/" + file).assign(bytes.begin(), bytes.end());
  }

  /// Changes what the checkpoint says of itself, so that all checksums are right.
  void change(const std::function<void(zerospan::detail::Manifest&, std::vector<zerospan::detail::Part>&)>& f) {
    auto manifest = zerospan::detail::parse_manifest(text_of("manifest.json"), "the manifest");
    const std::vector<std::string> names{"rank-0.json", "rank-1.json"};
    std::vector<zerospan::detail::Part> parts;
    for (const std::string& name : names) parts.push_back(zerospan::detail::parse_part(text_of(name), name));
    f(manifest, parts);
    for (std::size_t i = 0; i < names.size(); ++i) {
      set(names[i], zerospan::detail::part_text(parts[i], names[i]));
      if (i >= manifest.parts.size()) continue;
      manifest.parts[i] = {text_of(names[i]).size(), zerospan::detail::checksum(std::string_view{text_of(names[i])})};
    }
    set("manifest.json", zerospan::detail::manifest_text(manifest, "the manifest"));
  }

  /// What three ranks are told that load it: the same, and nothing has changed.
  CheckpointError error() {
    std::vector<CheckpointError> errors = zerospan::run_ranks(3, [&](zerospan::ThreadCommunicator communicator) {
      SmallRank rank{communicator};
      rank.step();
      const std::uint64_t before = rank.hash();
      CheckpointError told = error_of([&] { zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files}); });
      CHECK(rank.hash() == before);
      CHECK(rank.engine().progress().step == 1);
      rank.step();
      return told;
    });
    for (const CheckpointError& each : errors) {
      CHECK(std::string_view{each.what()} == errors[0].what());
      CHECK(each.file() == errors[0].file());
      CHECK(each.parameter() == errors[0].parameter());
      CHECK(each.error_number() == errors[0].error_number());
    }
    return errors[0];
  }
};

const std::vector<std::string> all_files{"rank-0.data", "rank-0.json", "rank-1.data", "rank-1.json"};

TEST_CASE("a file that is missing, truncated or too long is named") {
  for (const std::string& file : all_files) {
    CAPTURE(file);
    Saved missing;
    missing.files.remove(missing.path + "/" + file);
    CHECK(missing.error().file() == missing.path + "/" + file);

    for (const std::ptrdiff_t change : {-1, 1}) {
      Saved resized;
      auto& bytes = resized.files.bytes_of(resized.path + "/" + file);
      bytes.resize(static_cast<std::size_t>(static_cast<std::ptrdiff_t>(bytes.size()) + change));
      CHECK(resized.error().file() == resized.path + "/" + file);
    }
  }
  Saved incomplete;
  incomplete.files.remove(incomplete.path + "/manifest.json");
  CHECK(incomplete.error().file() == "/run");
}

TEST_CASE("a bit that has changed is found, wherever it is") {
  for (const std::string file : {"rank-0.data", "rank-0.json", "rank-1.data", "rank-1.json", "manifest.json"}) {
    CAPTURE(file);
    Saved saved;
    auto& bytes = saved.files.bytes_of(saved.path + "/" + file);
    for (std::size_t i = 0; i < 6; ++i) {
      const std::size_t at = (bytes.size() - 3) * i / 5;  // the last ones are white space
      CAPTURE(at);
      bytes[at] ^= std::byte{4};
      CHECK(saved.error().file() == saved.path + "/" + file);
      bytes[at] ^= std::byte{4};
    }
  }
}

TEST_CASE("the error of a bit that has changed in a parameter names the parameter, and what of it") {
  Saved saved;
  saved.files.bytes_of(saved.path + "/rank-0.data")[3 * 4096 + 5] ^= std::byte{1};
  const CheckpointError error = saved.error();
  CHECK(error.parameter() == "large");
  CHECK(error.error_number() == 0);
  CHECK(
      std::string_view{error.what()}.find("rank-0.data: parameter large: its exp_avg at offset 12288, 12288 bytes, are "
                                          "not those that were saved") != std::string_view::npos);
}

/// Counts what is read of data.
class CountedReads final : public zerospan_test::ForwardedFiles<VolatileFiles> {
 public:
  std::unique_ptr<Reader> open(const std::string& path) override {
    std::unique_ptr<Reader> reader = files().open(path);
    if (!reader || !path.ends_with(".data")) return reader;
    return std::make_unique<Counted>(std::move(reader), bytes_);
  }

  std::uint64_t take_bytes() { return bytes_.exchange(0); }

 private:
  class Counted final : public Reader {
   public:
    Counted(std::unique_ptr<Reader> reader, std::atomic<std::uint64_t>& bytes)
        : reader_{std::move(reader)}, bytes_{bytes} {}

    std::uint64_t size() const override { return reader_->size(); }
    void expect_one_reading() override { reader_->expect_one_reading(); }
    void read(std::uint64_t offset, std::span<std::byte> bytes) override {
      bytes_ += bytes.size();
      reader_->read(offset, bytes);
    }

   private:
    std::unique_ptr<Reader> reader_;
    std::atomic<std::uint64_t>& bytes_;
  };

  std::atomic<std::uint64_t> bytes_ = 0;
};

TEST_CASE("checksums that are compared while loading cost no second read") {
  CountedReads files;
  zerospan::SelfCommunicator alone;
  SmallRank rank{alone};
  rank.step();
  zerospan::save_checkpoint(rank.engine(), "/run", {.files = &files});
  const std::uint64_t saved = rank.hash();
  const std::uint64_t size = files.files().bytes_of("/run/step-1/rank-0.data").size();
  for (const auto& [check, times] :
       {std::pair{CheckpointCheck::before_changes, 2}, std::pair{CheckpointCheck::while_loading, 1}}) {
    rank.step();
    files.take_bytes();
    zerospan::load_checkpoint(rank.engine(), "/run", {.check = check, .buffer = small_buffer, .files = &files});
    CHECK(files.take_bytes() == static_cast<std::uint64_t>(times) * size);
    CHECK(rank.hash() == saved);
  }
}

TEST_CASE("a bit that has changed is found while loading, and a sound checkpoint mends what was loaded in part") {
  Saved saved;
  const auto load = [&](int ranks, bool is_damaged) {
    const auto told = zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) -> std::string {
      SmallRank rank{communicator};
      const zerospan::LoadOptions options{
          .check = CheckpointCheck::while_loading, .buffer = small_buffer, .files = &saved.files};
      if (is_damaged) {
        const CheckpointError error = error_of([&] { zerospan::load_checkpoint(rank.engine(), "/run", options); });
        CHECK(error.file().starts_with(saved.path + "/rank-"));
        CHECK_FALSE(error.parameter().empty());
        return error.what();
      }
      zerospan::load_checkpoint(rank.engine(), "/run", options);
      return std::to_string(rank.hash());
    });
    for (const std::string& each : told) CHECK(each == told[0]);
    return told[0];
  };
  const std::string sound = load(2, false);
  CHECK(load(3, false) == sound);
  for (const std::string file : {"rank-0.data", "rank-1.data"}) {
    auto& bytes = saved.files.bytes_of(saved.path + "/" + file);
    for (std::size_t i = 0; i < 6; ++i) {
      const std::size_t at = (bytes.size() - 20) * i / 5;  // the host's bytes are the last
      CAPTURE(file);
      CAPTURE(at);
      bytes[at] ^= std::byte{4};
      CHECK(load(2, true).ends_with("; the model is loaded in part"));
      load(3, true);
      bytes[at] ^= std::byte{4};
    }
  }

  auto& bytes = saved.files.bytes_of(saved.path + "/rank-0.data");
  zerospan::SelfCommunicator alone;
  SmallRank rank{alone};
  const auto load_again = [&] {
    zerospan::load_checkpoint(rank.engine(), "/run", {.check = CheckpointCheck::while_loading, .files = &saved.files});
  };
  bytes[0] ^= std::byte{4};
  CHECK_THROWS_AS(load_again(), CheckpointError);
  bytes[0] ^= std::byte{4};
  CHECK_NOTHROW(load_again());
  CHECK(std::to_string(rank.hash()) == sound);
}

TEST_CASE("a manifest that is no manifest of this version is refused") {
  const auto refused = [](const std::function<void(std::string&)>& change) {
    Saved saved;
    std::string text = saved.text_of("manifest.json");
    change(text);
    saved.set("manifest.json", text);
    const CheckpointError error = saved.error();
    CHECK(error.file() == saved.path + "/manifest.json");
    return std::string{error.what()};
  };
  const auto replace = [](std::string& text, const std::string& from, const std::string& to) {
    text.replace(text.find(from), from.size(), to);
  };
  CHECK(refused([&](std::string& text) {
          replace(text, "\"version\": 3", "\"version\": 4");
        }).find("its format has version 4, this zerospan reads versions up to 3") != std::string::npos);
  CHECK(refused([&](std::string& text) {
          replace(text, "zerospan checkpoint", "another's");
        }).find("this is no checkpoint of zerospan") != std::string::npos);
  CHECK(refused([](std::string& text) { text.clear(); }).find("no JSON object") != std::string::npos);
  CHECK(refused([](std::string& text) { text = "[[[["; }).find("no JSON object") != std::string::npos);
  CHECK(refused([](std::string& text) { text = "{}"; }).find("it has no \"format\"") != std::string::npos);
  CHECK(refused([&](std::string& text) {
          replace(text, "\"seed\": 0", "\"seed\": 1");
        }).find("its checksum does not fit") != std::string::npos);
}

TEST_CASE("a checkpoint that says of itself what cannot be is refused, whatever its checksums") {
  using zerospan::detail::Manifest;
  using zerospan::detail::Part;
  const auto refused = [](const std::function<void(Manifest&, std::vector<Part>&)>& change) {
    Saved saved;
    saved.change(change);
    return std::string{saved.error().what()};
  };
  const auto in_first = [](std::vector<Part>& parts) -> std::vector<zerospan::detail::StoredExtent>& {
    return parts[0].pieces.at(0).components.at(0);
  };
  const auto contains = [](const std::string& text, std::string_view words) {
    CHECK_MESSAGE(text.find(words) != std::string::npos, text);
  };
  contains(refused([](Manifest& m, auto&) { m.progress.step = -1; }), "\"step\" is no whole number from 0 on");
  contains(refused([](Manifest& m, auto&) { m.parameters[0].is_split = true; }), "its master weights cannot be split");
  contains(refused([](Manifest& m, auto&) { m.parts.clear(); }), "\"parts\" has not one for each of the ranks");
  contains(refused([](Manifest& m, auto&) { m.progress.loss_scale = {3.0F, 1}; }), "the loss scale is no power of two");
  contains(refused([](Manifest& m, auto&) { m.parameters.push_back(m.parameters[0]); }), "two parameters of this name");
  contains(refused([](Manifest& m, auto&) { m.parts.resize(1); }), "has not each of its elements once");
  contains(refused([&](auto&, auto& parts) { in_first(parts).clear(); }), "has not each of its elements once");
  contains(refused([&](auto&, auto& parts) { in_first(parts).push_back(in_first(parts)[0]); }),
           "has not each of its elements once");
  contains(refused([&](auto&, auto& parts) { in_first(parts)[0].elements -= 2000; }),
           "has not each of its elements once");
  contains(refused([&](auto&, auto& parts) { in_first(parts)[0].elements = 0; }), "ends beyond");
  contains(refused([&](auto&, auto& parts) { in_first(parts)[0].elements = ~std::uint64_t{0} / 2; }), "ends beyond");
  contains(refused([&](auto&, auto& parts) { in_first(parts)[0].first = ~std::uint64_t{0} - 5; }), "ends beyond");
  contains(refused([&](auto&, auto& parts) { in_first(parts)[0].offset = ~std::uint64_t{0} - 5; }), "ends beyond");
  contains(refused([&](auto&, auto& parts) { parts[0].pieces[0].components.resize(2); }), "states are missing");
  contains(refused([&](auto&, auto& parts) { parts[1].bytes += 1; }), "the file is truncated");
  contains(refused([&](auto&, auto& parts) { parts[1].host[0].offset = ~std::uint64_t{0} - 1; }), "out of order");
  contains(refused([&](auto&, auto& parts) { parts[1].host[0].first = 1; }), "out of order");
}

/// Loads what large and small have saved into another model, on two ranks.
template <class Optimizer = zerospan::AdamW>
std::string refusal(const std::vector<Declared>& model, const Optimizer& optimizer = {},
                    const std::vector<Declared>& saved_model = large_and_small) {
  Saved saved{saved_model};
  return zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
    SmallRank rank{communicator, model, optimizer};
    const std::uint64_t before = rank.hash();
    const CheckpointError error =
        error_of([&] { zerospan::load_checkpoint(rank.engine(), "/run", {.files = &saved.files}); });
    CHECK(rank.hash() == before);
    CHECK(error.file() == saved.path + "/manifest.json");
    return error.parameter() +
           std::string{error.what()}.substr(std::string_view{"rank 0: "}.size() + error.file().size());
  })[0];
}

TEST_CASE("another model's checkpoint is refused, with the parameter at which they differ") {
  using zerospan::Training;
  const Declared large = large_and_small[0];
  const Declared small = large_and_small[1];
  CHECK(refusal({large}) == "small: parameter small: the checkpoint has it, and the model has not");
  CHECK(refusal({large, small, {"new", {5}}}) == "new: parameter new: the checkpoint does not have it");
  CHECK(refusal({large, {"small", {8}}}) == "small: parameter small: its shape is [8], and [7] in the checkpoint");
  CHECK(refusal({{"large", {51, 100}}, small}) ==
        "large: parameter large: its shape is [51, 100], and [100, 51] in the checkpoint");
  CHECK(refusal({large, {"small", {7}, Training::frozen}}) ==
        "small: parameter small: it is declared frozen, and was trained in the checkpoint");
  CHECK(refusal(large_and_small, zerospan::AdamW{}, {large, {"small", {7}, Training::frozen}}) ==
        "small: parameter small: it is declared trainable, and was frozen in the checkpoint");
  CHECK(refusal(large_and_small, zerospan::Lion{}) ==
        ": it has the states of another optimizer: of AdamW (exp_avg, exp_avg_sq), not of Lion (exp_avg)");
  CHECK(refusal(large_and_small, zerospan::Sgd{}) ==
        ": it has the states of another optimizer: of AdamW (exp_avg, exp_avg_sq), not of Sgd ()");
}

TEST_CASE("a partial load takes what fits, leaves the rest as it is, and says so") {
  const Declared large = large_and_small[0];
  Saved saved;
  for (const int ranks : {1, 2, 3}) {
    zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
      SmallRank rank{communicator, {large, {"new", {5000}}, {"small", {8}}}};
      rank.step();
      zerospan_test::ModelStates before;
      rank.engine().for_each_state([&](const zerospan::StatesPiece& piece) { collect(before, piece); });
      const LoadedCheckpoint loaded =
          zerospan::load_checkpoint(rank.engine(), "/run", {.match = CheckpointMatch::partial, .files = &saved.files});
      CHECK(loaded.taken == std::vector<std::string>{"large"});
      CHECK(loaded.missing == std::vector<std::string>{"new"});
      CHECK(loaded.reshaped == std::vector<std::string>{"small"});
      CHECK(loaded.without_states.empty());
      CHECK(loaded.extra.empty());
      CHECK(rank.engine().progress().step == 2);
      zerospan_test::ModelStates after;
      rank.engine().for_each_state([&](const zerospan::StatesPiece& piece) { collect(after, piece); });
      for (const char* name : {"new", "small"}) {
        CHECK(before.contains(name) == after.contains(name));
        if (before.contains(name)) CHECK((before.at(name) == after.at(name)));
      }
      if (after.contains("large")) {
        CHECK(after.at("large").updates == 2);
        CHECK((after.at("large").master != before.at("large").master));
      }
      return 0;
    });
  }
}

TEST_CASE("a partial load of another optimizer's states takes the weights, and begins with states of its own") {
  Saved saved;
  zerospan::SelfCommunicator self;
  SmallRank rank{self, {large_and_small[0], {"small", {7}, zerospan::Training::frozen}}, zerospan::Lion{}};
  rank.step();
  const LoadedCheckpoint loaded =
      zerospan::load_checkpoint(rank.engine(), "/run", {.match = CheckpointMatch::partial, .files = &saved.files});
  CHECK(loaded.without_states == std::vector<std::string>{"large"});
  CHECK(loaded.taken == std::vector<std::string>{"small"});
  CHECK(rank.hash() == hashes_of_steps(2, 2)[2]);
  rank.engine().for_each_state([&](const zerospan::StatesPiece& piece) {
    CHECK(piece.updates == 0);
    for (const auto states : piece.states) {
      CHECK(std::ranges::all_of(states, [](std::byte byte) { return byte == std::byte{0}; }));
    }
  });
}

TEST_CASE("a file that fails only when it is read again leaves a model that is loaded in part, and says so") {
  std::size_t last = 0;
  std::size_t in_part = 0;
  Saved saved;
  zerospan::run_ranks(1, [&](zerospan::ThreadCommunicator communicator) {
    SmallRank rank{communicator};
    saved.files.count();
    const auto load = [&] { zerospan::load_checkpoint(rank.engine(), "/run", {.files = &saved.files}); };
    load();
    last = saved.files.count();
    for (std::size_t operation = 0; operation < last; ++operation) {
      saved.files.fail_at(operation, EIO);
      const CheckpointError error = error_of(load);
      CHECK(error.error_number() == EIO);
      if (std::string_view{error.what()}.ends_with("; the model is loaded in part")) {
        ++in_part;
        CHECK(!error.file().empty());
      }
    }
    saved.files.recover();
    load();
    CHECK(rank.hash() == hashes_of_steps(2, 2)[2]);
    return 0;
  });
  CHECK(in_part > 5);
  CHECK(in_part < last - 5);
}

TEST_CASE("a load says which of the optimizer's settings are not those that were saved, and leaves them") {
  using zerospan::AdamW;
  VolatileFiles files;
  zerospan::SelfCommunicator self;
  SmallRank saver{self, large_and_small, AdamW{.learning_rate = 0.5F, .weight_decay = 0.25F}};
  saver.step();
  zerospan::save_checkpoint(saver.engine(), "/run", {.files = &files});
  const auto differences = [&](const auto& optimizer, CheckpointMatch match = CheckpointMatch::strict) {
    SmallRank rank{self, large_and_small, optimizer};
    return zerospan::load_checkpoint(rank.engine(), "/run", {.match = match, .files = &files}).settings_that_differ;
  };
  using Differences = std::vector<zerospan::SettingDifference>;
  CHECK(differences(AdamW{.learning_rate = 0.5F, .weight_decay = 0.25F}).empty());
  CHECK((differences(AdamW{.learning_rate = 0.125F, .weight_decay = 0.25F}) ==
         Differences{{"learning_rate", 0.5, 0.125}}));
  CHECK((differences(AdamW{.learning_rate = 0.125F, .weight_decay = 0.5F}) ==
         Differences{{"learning_rate", 0.5, 0.125}, {"weight_decay", 0.25, 0.5}}));
  CHECK(differences(zerospan::Lion{}, CheckpointMatch::partial).empty());
}

TEST_CASE("a checkpoint is of an engine, between its steps, with room for a piece") {
  VolatileFiles files;
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    AnyEngine& engine = rank.engine();
    const auto save = [&] { zerospan::save_checkpoint(engine, "/run", {.files = &files}); };
    const SmallRank::Parameter more{engine, "more", {3}, zerospan::init::zeros()};
    save();
    {
      const auto lease = more.gather(zerospan::calling_thread);
      CHECK_THROWS_AS(save(), zerospan::LeaseError);
    }
    more.gradient(zerospan::calling_thread, zerospan::GradientContent::zeros).commit();
    CHECK_THROWS_AS(save(), zerospan::LeaseError);
    engine.abandon();
    CHECK_THROWS_AS(zerospan::save_checkpoint(engine, "/run", {.buffer = Bytes{1000}, .files = &files}),
                    zerospan::ConfigurationError);
    CHECK_THROWS_AS(zerospan::load_checkpoint(engine, "/run", {.buffer = Bytes{0}, .files = &files}),
                    zerospan::ConfigurationError);
    save();
    return 0;
  });
}

/// What a child process says of a save that its machine refuses: the error's number, and whether all is well
/// afterwards.
std::string said_of_save(const std::string& directory, const std::function<void()>& prepare) {
  return zerospan_test::in_child([&] {
    zerospan::SelfCommunicator self;
    SmallRank rank{self};
    rank.step();
    zerospan::save_checkpoint(rank.engine(), directory, {.keep = 1});
    const std::uint64_t saved = rank.hash();
    rank.step();
    prepare();
    int error_number = 0;
    try {
      zerospan::save_checkpoint(rank.engine(), directory, {.keep = 1});
    } catch (const CheckpointError& error) {
      error_number = error.error_number();
    }
    rank.step();
    zerospan::load_checkpoint(rank.engine(), directory);
    return std::to_string(error_number) + (rank.hash() == saved ? ", the old one is intact" : ", it is lost");
  });
}

TEST_CASE("a file has what was written, however that was cut and wherever it was") {
  const ScratchDirectory disk;
  std::vector<std::string> directories{disk.path()};
  if (std::filesystem::exists("/dev/shm")) directories.emplace_back("/dev/shm");  // memory, without direct I/O or with it
  std::mt19937 random{17};
  for (const std::string& directory : directories) {
    const ScratchDirectory scratch{directory};
    for (int round = 0; round < 20; ++round) {
      const std::size_t most = round % 4 == 0 ? 5'000'000 : 20'000;
      std::vector<std::byte> expected;
      const std::string path = scratch.path() + "/file";
      zerospan::FileSystem files;
      {
        const auto file = files.create(path);
        for (int write = 0; write < 6; ++write) {
          const zerospan_test::AlignedBuffer memory{most + 4096};
          const bool is_aligned = random() % 2 == 0;
          const std::size_t bytes = is_aligned ? random() % most / 4096 * 4096 : random() % most;
          const auto part = memory.bytes().subspan(is_aligned ? 0 : random() % 4096, bytes);
          for (std::byte& byte : part) byte = static_cast<std::byte>(random());
          file->write(part);
          expected.insert(expected.end(), part.begin(), part.end());
          if (random() % 5 == 0) file->sync();
        }
        file->sync();
      }
      const auto file = files.open(path);
      REQUIRE(file->size() == expected.size());
      std::vector<std::byte> found(expected.size());
      file->read(0, found);
      CHECK(found == expected);
    }
  }
}

TEST_CASE("a directory that may not be written is told, and the checkpoint in it stays") {
  const ScratchDirectory directory;
  const std::string said = said_of_save(directory.path(), [&] {
    zerospan_test::give_up({CAP_DAC_OVERRIDE});
    std::filesystem::permissions(directory.path(),
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  });
  std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_all);
  CHECK(said == std::to_string(EACCES) + ", the old one is intact");
}

TEST_CASE("a limit of file sizes is told, and the checkpoint that is there stays") {
  const ScratchDirectory directory;
  CHECK(said_of_save(directory.path(), [&] {
          std::signal(SIGXFSZ, SIG_IGN);
          const ::rlimit limit{50000, 50000};
          ::setrlimit(RLIMIT_FSIZE, &limit);
        }) == std::to_string(EFBIG) + ", the old one is intact");
}

TEST_CASE("a full disk is told, and the checkpoint that is there stays") {
  const ScratchDirectory directory;
  const std::string said = zerospan_test::in_child([&] {
    zerospan_test::enter_own_mounts();
    const zerospan_test::Mount disk{directory.path(), {.data = "size=100k"}};
    return said_of_save(disk.directory(), [] {});
  });
  if (said.find("mount") != std::string::npos) {
    MESSAGE("left out: ", said);
  } else {
    CHECK(said == std::to_string(ENOSPC) + ", the old one is intact");
  }
}

/// The file system of this host, and a byte into a pipe before each operation that changes something.
class ToldFiles final : public zerospan::CheckpointFiles {
 public:
  explicit ToldFiles(int pipe) : pipe_{pipe} {}

  std::unique_ptr<Writer> create(const std::string& path) override {
    tell();
    return std::make_unique<ToldWriter>(*this, files_.create(path));
  }
  std::unique_ptr<Reader> open(const std::string& path) override { return files_.open(path); }
  void make_directory(const std::string& path) override { tell(), files_.make_directory(path); }
  bool can_link(int descriptor, const std::string& directory) override {
    return files_.can_link(descriptor, directory);
  }
  bool link(int descriptor, const std::string& path) override { return tell(), files_.link(descriptor, path); }
  void sync_file(const std::string& path) override { tell(), files_.sync_file(path); }
  std::vector<std::string> list(const std::string& path) override { return files_.list(path); }
  void rename(const std::string& from, const std::string& to) override { tell(), files_.rename(from, to); }
  void sync_directory(const std::string& path) override { tell(), files_.sync_directory(path); }
  void remove(const std::string& path) override { tell(), files_.remove(path); }
  std::unique_ptr<Lock> lock(const std::string& path) override { return tell(), files_.lock(path); }

  void tell(char what = '.') const {
    if (::write(pipe_, &what, 1) != 1) ::_exit(1);
  }

 private:
  class ToldWriter final : public Writer {
   public:
    ToldWriter(const ToldFiles& files, std::unique_ptr<Writer> writer) : files_{files}, writer_{std::move(writer)} {}
    void write(std::span<const std::byte> bytes) override { files_.tell(), writer_->write(bytes); }
    void sync() override { files_.tell(), writer_->sync(); }

   private:
    const ToldFiles& files_;
    std::unique_ptr<Writer> writer_;
  };

  zerospan::FileSystem files_;
  int pipe_;
};

/// Trains on two ranks, saves after each step, and never ends.
[[noreturn]] void train_for_ever(const std::string& directory, bool is_on_disk, bool trains_meanwhile, int pipe) {
  ToldFiles files{pipe};
  const auto train = [&](SmallRank& rank, auto& communicator) -> int {
    if (zerospan::find_checkpoint(rank.engine(), directory)) zerospan::load_checkpoint(rank.engine(), directory);
    zerospan::CheckpointSaver saver{rank.engine(), directory};
    while (true) {
      rank.step();
      std::vector<SavedCheckpoint> saved = saver.start({.keep = 2, .files = &files});
      if (!trains_meanwhile) saved = saver.wait();
      for (std::size_t i = 0; i < saved.size() && communicator.rank().value == 0; ++i) files.tell('s');
    }
  };
  on_small_ranks(2, train, large_and_small, {.disk = is_on_disk ? directory : ""});
  ::_exit(1);
}

/// Has a process train, and kills it after so many of its operations. @return How many saves it has completed.
int killed_after(std::size_t operations, const std::string& directory, bool is_on_disk, bool trains_meanwhile) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const ::pid_t child = ::fork();
  REQUIRE(child != -1);
  if (child == 0) {
    ::alarm(60);
    try {
      train_for_ever(directory, is_on_disk, trains_meanwhile, ends[1]);
    } catch (...) {
    }
    ::_exit(1);
  }
  ::close(ends[1]);
  int saves = 0;
  char what = 0;
  for (; operations > 0 && ::read(ends[0], &what, 1) == 1; --operations) saves += what == 's' ? 1 : 0;
  ::kill(child, SIGKILL);
  while (::read(ends[0], &what, 1) == 1) saves += what == 's' ? 1 : 0;
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  return saves;
}

/// Kills a training again and again, wherever it is in its saves.
void check_kills(int rounds, std::uint32_t seed) {
  const ScratchDirectory directory;
  std::mt19937 random{seed};
  std::vector<std::uint64_t> hashes = hashes_of_steps(2, 40);
  std::int64_t saved = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::size_t operations = 1 + random() % 150;
    CAPTURE(operations);
    CAPTURE(round);
    const bool trains_meanwhile = round / 2 % 2 == 1;
    saved += killed_after(operations, directory.path(), round % 2 == 1, trains_meanwhile);
    on_small_ranks(2, [&](SmallRank& rank, auto& communicator) {
      const std::optional<std::int64_t> found = zerospan::find_checkpoint(rank.engine(), directory.path());
      CHECK(found.value_or(0) >= saved);
      CHECK(found.value_or(0) <= saved + (trains_meanwhile ? 2 : 1));  // complete, and not told yet
      if (found) zerospan::load_checkpoint(rank.engine(), directory.path());
      communicator.barrier({zerospan::calling_thread, "both have looked"});
      if (communicator.rank().value == 0) {
        saved = found.value_or(0);
        if (saved >= std::ssize(hashes)) hashes = hashes_of_steps(2, static_cast<int>(2 * saved));
        CHECK(rank.engine().progress().step == saved);
      }
      communicator.barrier({zerospan::calling_thread, "it is known which hash is expected"});
      CHECK(rank.hash() == hashes.at(static_cast<std::size_t>(rank.engine().progress().step)));
      return 0;
    });
  }
  CHECK(saved > rounds / 4);
}

TEST_CASE("a training that is killed at any moment goes on from its last checkpoint") { check_kills(20, 20250607); }

TEST_CASE("killed 200 times" * doctest::skip()) { check_kills(200, 4711); }

}  // namespace
