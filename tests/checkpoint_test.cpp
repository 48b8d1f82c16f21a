#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/zerospan.hpp>

#include "support/scratch.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"
#include "support/volatile_files.hpp"

namespace {

using zerospan::Bytes;
using zerospan::CheckpointError;
using zerospan::CheckpointMatch;
using zerospan::ElementType;
using zerospan::LoadedCheckpoint;
using zerospan::SavedCheckpoint;
using zerospan::SaveOptions;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::everything_on;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;
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

/// The hashes of a training that goes on from a checkpoint: at once, and after the steps up to `last`.
std::pair<std::uint64_t, std::uint64_t> resumed(const Configuration& c, const std::string& directory,
                                                std::int64_t last) {
  return on_toy_ranks(c, [&](auto& rank) {
    const LoadedCheckpoint loaded = zerospan::load_checkpoint(rank.engine(), directory, {.buffer = small_buffer});
    const std::uint64_t at_once = rank.hash();
    rank.train(loaded.step, last);
    return std::pair{at_once, rank.hash()};
  })[0];
}

std::uint64_t uninterrupted(const Configuration& c, std::int64_t steps) {
  return on_toy_ranks(c, [&](auto& rank) { return rank.train(0, steps), rank.hash(); })[0];
}

TEST_CASE("some steps, a save, and as many more elsewhere are all the steps at once, to the bit") {
  for (const auto type : {ElementType::float32, ElementType::bfloat16}) {
    for (const Configuration& from : ways(2, type)) {
      const ScratchDirectory directory;
      const auto [hash, saved] = save_after(from, 2, directory.path());
      const std::uint64_t expected = uninterrupted(from, 4);
      for (const Configuration& to : ways(2, type)) {
        CAPTURE(from.describe());
        CAPTURE(to.describe());
        CHECK(resumed(to, directory.path(), 4) == std::pair{hash, expected});
      }
    }
  }
}

TEST_CASE("what four ranks have saved from their disks is loaded by another number of ranks, wherever they keep it") {
  const ScratchDirectory directory;
  const auto [hash, saved] = save_after(everything_on(Place::nvme, 4, ElementType::bfloat16), 2, directory.path());
  for (const int ranks : {1, 2, 3}) {
    Configuration plain{.training = {.ranks = ranks}, .type = ElementType::bfloat16, .stage = 0};
    const auto expected = resumed(plain, directory.path(), 4);
    CHECK(expected.first == hash);
    for (const Configuration& to : ways(ranks, ElementType::bfloat16)) {
      CAPTURE(to.describe());
      CHECK(resumed(to, directory.path(), 4) == expected);
    }
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
      CHECK(own > expected / 8);
      CHECK(saved[rank].written.count ==
            own + std::filesystem::file_size(path / ("rank-" + std::to_string(rank) + ".json")));
      data += own;
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

/// An engine with two parameters, and gradients that depend on everything.
class SmallRank {
 public:
  using Parameter = zerospan::PartitionedParameter<Array<float>>;

  template <class Communicator, class Optimizer = zerospan::AdamW>
  explicit SmallRank(Communicator& communicator, const Optimizer& optimizer = {})
      : device_{{.device_budget = Bytes{1 << 20}, .host_budget = Bytes{1 << 20}}},
        tier_{device_},
        rank_{communicator.rank().value},
        engine_{3,
                communicator,
                device_,
                zerospan::Placement{tier_, tier_, tier_},
                optimizer,
                {.persistence_threshold = Bytes{0}}} {
    parameters_.emplace_back(engine_, "large", zerospan::Shape{100, 51}, zerospan::init::normal(1.0F));
    parameters_.emplace_back(engine_, "small", zerospan::Shape{7}, zerospan::init::normal(1.0F));
  }

  AnyEngine& engine() { return engine_; }
  std::uint64_t hash() { return zerospan_test::hash_masters(engine_); }

  void step() {
    const auto step = engine_.progress().step;
    for (const Parameter& parameter : parameters_) {
      const auto full = parameter.gather(zerospan::calling_thread);
      auto gradient = parameter.gradient(zerospan::calling_thread);
      for (std::size_t k = 0; k < full->size; ++k) {
        gradient->data[k] = full->data[k] + zerospan_test::noise(0, {rank_, step, 0}, k);
      }
      gradient.commit();
    }
    engine_.step();
  }

 private:
  zerospan::HostDevice device_;
  zerospan::DeviceTier tier_;
  int rank_;
  AnyEngine engine_;
  std::vector<Parameter> parameters_;
};

template <class F>
auto on_small_ranks(int ranks, F f) {
  return zerospan::run_ranks(
      ranks,
      [&](zerospan::ThreadCommunicator communicator) {
        SmallRank rank{communicator};
        return f(rank, communicator);
      },
      {.timeout = std::chrono::seconds{30}});
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

/// Saves a training of two ranks at step 1, then has `fault` befall the save of step 2. Whatever it is, the training goes
/// on, and a later one finds a checkpoint that is whole.
struct Befallen {
  static constexpr int ranks = 2;
  static const std::vector<std::uint64_t>& expected() {
    static const std::vector<std::uint64_t> hashes = hashes_of_steps(ranks, 4);
    return hashes;
  }

  VolatileFiles files;
  bool has_failed = false;

  void save_two(const std::function<void()>& fault) {
    on_small_ranks(ranks, [&](SmallRank& rank, auto& communicator) {
      const SaveOptions options{.keep = 1, .files = &files};
      rank.step();
      zerospan::save_checkpoint(rank.engine(), "/run", options);
      rank.step();
      communicator.barrier({zerospan::calling_thread, "before the fault"});
      if (communicator.rank().value == 0) fault();
      communicator.barrier({zerospan::calling_thread, "the fault is there"});
      bool failed = false;
      try {
        zerospan::save_checkpoint(rank.engine(), "/run", options);
      } catch (const CheckpointError& error) {
        failed = true;
        CHECK(error.error_number() != 0);
        CHECK(!error.file().empty());
      }
      std::int64_t fails = failed ? 1 : 0;
      communicator.all_reduce({zerospan::calling_thread, "who has failed"}, std::span{&fails, 1});
      CHECK(fails == (failed ? ranks : 0));
      if (communicator.rank().value == 0) has_failed = failed;
      rank.step();
      CHECK(rank.hash() == expected()[3]);
      return 0;
    });
  }

  /// @return The step that is found.
  std::int64_t resume() {
    return on_small_ranks(ranks, [&](SmallRank& rank, auto&) {
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

TEST_CASE("whichever operation of a save fails, all ranks are told, and training goes on from either checkpoint") {
  for (const bool is_full : {false, true}) {
    std::size_t operation = 0;
    for (std::size_t in_a_row = 0; in_a_row < 3; ++operation) {
      CAPTURE(operation);
      CAPTURE(is_full);
      Befallen training;
      training.save_two([&] {
        is_full ? training.files.fill_up_at(operation) : training.files.fail_at(operation, EIO);
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

TEST_CASE("whenever the power is lost during a save, what is found then is whole") {
  std::array<int, 3> found{};
  std::size_t operation = 0;
  for (bool has_failed = true; has_failed; ++operation) {
    for (std::uint64_t survivors = 0; survivors < 4; ++survivors) {
      CAPTURE(operation);
      CAPTURE(survivors);
      Befallen training;
      training.save_two([&] { training.files.lose_power_at(operation); });
      has_failed = training.has_failed;
      training.files.restart(survivors == 0 ? std::nullopt : std::optional{operation * 4 + survivors});
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

}  // namespace
