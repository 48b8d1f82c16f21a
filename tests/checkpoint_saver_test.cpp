// Saves that go on while training does.
#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/core/detail/background_work.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/gated_files.hpp"
#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/small_rank.hpp"
#include "support/toy_model.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"
#include "support/volatile_files.hpp"

namespace {

using zerospan::CheckpointError;
using zerospan::CheckpointSaver;
using zerospan::ElementType;
using zerospan::LoadedCheckpoint;
using zerospan::SavedCheckpoint;
using zerospan::SaveOptions;
using zerospan::detail::BackgroundWork;
using zerospan::detail::StatesBeingRead;
using zerospan_test::Configuration;
using zerospan_test::Declared;
using zerospan_test::GatedFiles;
using zerospan_test::on_small_ranks;
using zerospan_test::on_toy_ranks;
using zerospan_test::ScratchDirectory;
using zerospan_test::SmallRank;
using zerospan_test::VolatileFiles;
using zerospan_test::ways;

/// A file system in memory that tells of operations: of what is made before it is, of what is removed afterwards.
class ToldFiles final : public zerospan::CheckpointFiles {
 public:
  enum class Operation : std::uint8_t { create, remove, lock };

  explicit ToldFiles(std::function<void(Operation, const std::string&)> tell) : tell_{std::move(tell)} {}

  std::unique_ptr<Writer> create(const std::string& path) override {
    tell_(Operation::create, path);
    return files_.create(path);
  }
  std::unique_ptr<Reader> open(const std::string& path) override { return files_.open(path); }
  void make_directory(const std::string& path) override { files_.make_directory(path); }
  std::vector<std::string> list(const std::string& path) override { return files_.list(path); }
  void rename(const std::string& from, const std::string& to) override { files_.rename(from, to); }
  void sync_directory(const std::string& path) override { files_.sync_directory(path); }
  void remove(const std::string& path) override {
    files_.remove(path);
    tell_(Operation::remove, path);
  }
  std::unique_ptr<Lock> lock(const std::string& path) override {
    tell_(Operation::lock, path);
    return files_.lock(path);
  }

 private:
  VolatileFiles files_;
  std::function<void(Operation, const std::string&)> tell_;
};

/// Gives other threads time until something has happened, which may never be.
void await_a_while(const std::atomic<bool>& has_happened) {
  for (int i = 0; i < 10'000 && !has_happened; ++i) std::this_thread::yield();
}

// What it is made of.

TEST_CASE("background work tells what has become of it, once") {
  BackgroundWork work;
  CHECK(work.is_done());
  work.wait();
  std::atomic<int> done = 0;
  work.start("the thread of a test", [&] { done = 1; });
  work.wait();
  CHECK(done == 1);
  CHECK(work.is_done());
  work.start("the thread of a test", [] { throw std::runtime_error{"it has failed"}; });
  CHECK_THROWS_WITH_AS(work.wait(), "it has failed", std::runtime_error);
  work.wait();
  {
    BackgroundWork waited_for;
    waited_for.start("the thread of a test", [&] { done = 2; });
  }
  CHECK(done == 2);
}

TEST_CASE("who changes states waits for whoever still reads them, and for nobody else") {
  const int places[3]{};
  const StatesBeingRead::Group first = &places[0];
  const StatesBeingRead::Group second = &places[1];
  const auto reading = std::make_shared<StatesBeingRead>();
  reading->expect(first);
  reading->expect(first);
  reading->await(first);  // it may not be read yet
  CHECK(reading->awaits_engine());
  CHECK(!reading->is_over());
  std::atomic<int> pieces = 0;
  std::thread reader{[&] {
    for (int i = 0; i < 2; ++i) {
      CHECK(reading->read({&first, 1}, [&] { ++pieces; }));
      reading->done_with(first);
    }
  }};
  reading->let(second, {});
  reading->let(first, {});
  CHECK(!reading->awaits_engine());
  reading->await(second);
  reading->await(first);
  CHECK(pieces == 2);
  reading->await_all();
  reader.join();
  CHECK(reading->is_over());

  const auto failing = std::make_shared<StatesBeingRead>();
  failing->expect(first);
  failing->let(first, {});
  std::thread failed{[&] {
    CHECK_THROWS_AS((void)failing->read({&first, 1}, [] { throw std::runtime_error{"the disk is full"}; }),
                    std::runtime_error);
    failing->give_up();
  }};
  failing->await(first);
  failing->await_all();
  failed.join();

  const auto stopped = std::make_shared<StatesBeingRead>();
  stopped->expect(first);
  std::thread waits{[&] { CHECK(!stopped->read({&first, 1}, [] { FAIL("it is read after its engine's end"); })); }};
  stopped->stop();
  waits.join();
}

TEST_CASE("who reads states waits for the updates before, of each sub-group that it reads") {
  const int places[2]{};
  const StatesBeingRead::Group groups[2]{&places[0], &places[1]};
  const auto reading = std::make_shared<StatesBeingRead>();
  for (const StatesBeingRead::Group group : groups) reading->expect(group);
  std::atomic<int> ended = 0;
  std::thread reader{[&] { CHECK(reading->read(groups, [&] { CHECK(ended == 3); })); }};
  zerospan::Promise promises[3]{zerospan::Promise{"a"}, zerospan::Promise{"b"}, zerospan::Promise{"c"}};
  const zerospan::Completion of_first[2]{promises[0].completion(), promises[1].completion()};
  const zerospan::Completion of_second[1]{promises[2].completion()};
  reading->let(groups[1], of_second);
  reading->let(groups[0], of_first);
  for (zerospan::Promise& promise : promises) {
    ++ended;
    promise.succeed();
  }
  reader.join();

  const auto failing = std::make_shared<StatesBeingRead>();
  failing->expect(groups[0]);
  zerospan::Promise lost{"an update"};
  const zerospan::Completion end[1]{lost.completion()};
  failing->let(groups[0], end);
  lost.fail(std::make_exception_ptr(std::runtime_error{"the update has failed"}));
  CHECK_THROWS_WITH_AS((void)failing->read({groups, 1}, [] { FAIL("what is there is no state of the training"); }),
                       "the update has failed", std::runtime_error);
}

// Training while a checkpoint is written.

TEST_CASE("what is saved is one moment, and what is trained meanwhile is what it would have been") {
  zerospan_test::Sample sample{4};
  for (const auto type : {ElementType::float32, ElementType::bfloat16}) {
    const std::vector<Configuration> all = ways(2, type);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!sample.takes()) continue;
      CAPTURE(all[i].describe());
      const ScratchDirectory directory;
      const auto [saved, trained] = on_toy_ranks(all[i], [&](auto& rank) {
        rank.train(0, 2);
        const std::uint64_t hash = rank.hash();
        CheckpointSaver saver{rank.engine(), directory.path()};
        CHECK(saver.start().empty());
        CHECK(saver.is_saving());
        rank.train(2, 4);
        CHECK(saver.wait().back().step == 2);
        CHECK(!saver.is_saving());
        return std::pair{hash, rank.hash()};
      })[0];
      const Configuration& to = all[(i + 1) % all.size()];
      CAPTURE(to.describe());
      const auto [loaded, resumed] = on_toy_ranks(to, [&](auto& rank) {
        const LoadedCheckpoint checkpoint = zerospan::load_checkpoint(rank.engine(), directory.path());
        const std::uint64_t hash = rank.hash();
        rank.train(checkpoint.step, 4);
        return std::pair{hash, rank.hash()};
      })[0];
      CHECK(loaded == saved);
      CHECK(resumed == trained);
    }
  }
}

/// Two parameters in sub-groups of their own.
const std::vector<Declared> apart{{"a", {8192}}, {"b", {8192}}};

/// Saves on one rank, and has `change` change states while nothing is written yet. The gate opens some time after the
/// change has begun, which must wait for that.
void check_change(const std::function<void(SmallRank&)>& change) {
  on_small_ranks(
      1,
      [&](SmallRank& rank, auto&) {
        GatedFiles files;
        rank.step();
        const std::uint64_t saved = rank.hash();
        CheckpointSaver saver{rank.engine(), "/run"};
        saver.start({.files = &files});
        CHECK(saver.poll().empty());
        std::atomic<bool> is_changed = false;
        bool was_changed = false;
        std::thread opens{[&] {
          await_a_while(is_changed);
          was_changed = is_changed;
          files.open_gate();
        }};
        change(rank);
        is_changed = true;
        opens.join();
        CHECK(!was_changed);
        CHECK(saver.wait().back().step == 1);
        zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files.files()});
        CHECK(rank.hash() == saved);
        return 0;
      },
      apart, {.sub_group_elements = 4096});
}

TEST_CASE("whatever changes states waits until they have been written") {
  check_change([](SmallRank& rank) { rank.step(); });
  check_change([](SmallRank& rank) {
    auto lease = rank.parameters()[1].write(zerospan::calling_thread, zerospan::WriteContent::current);
    lease->data[0] = 1.0F;
    lease.commit();
  });
  check_change([](SmallRank& rank) {
    rank.engine().edit_states([](const zerospan::StatesEdit& edit) {
      edit.master[0] = 1.0F;
      return zerospan::EditOutcome::changed;
    });
  });
}

TEST_CASE("gathers and gradients wait for no save") {
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    GatedFiles files;
    rank.step();
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.files = &files});
    const SmallRank::Parameter& parameter = rank.parameters()[0];
    {
      const auto full = parameter.gather(zerospan::calling_thread);
      auto gradient = parameter.gradient(zerospan::calling_thread);
      for (std::size_t k = 0; k < full->size; ++k) gradient->data[k] = full->data[k];
      gradient.commit();
    }
    rank.engine().abandon();
    CHECK(saver.poll().empty());
    files.open_gate();
    CHECK(saver.wait().back().step == 1);
    return 0;
  });
}

TEST_CASE("each checkpoint is told once, when it is complete, and the next save need not wait for that") {
  const ScratchDirectory directory;
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    CheckpointSaver saver{rank.engine(), directory.path()};
    CHECK(!saver.is_saving());
    CHECK(saver.poll().empty());
    CHECK(saver.wait().empty());
    rank.step();
    CHECK(saver.start({.keep = 2}).empty());
    std::vector<SavedCheckpoint> saved;
    while (saved.empty()) saved = saver.poll();
    CHECK(saved.size() == 1);
    CHECK(saved[0].step == 1);
    CHECK(saver.poll().empty());
    for (std::int64_t step = 2; step <= 4; ++step) {
      rank.step();
      const std::vector<SavedCheckpoint> complete = saver.start({.keep = 2});
      CHECK(complete.size() == (step > 3 ? 1 : 0));
      if (!complete.empty()) CHECK(complete[0].step == step - 2);
    }
    saved = saver.wait();
    CHECK(saved.size() == 2);
    CHECK(saved[0].step == 3);
    CHECK(saved[1].step == 4);
    saver.start({.keep = 4});
    saver.start({.keep = 4});
    saved = saver.wait();
    CHECK(saved[0].path == directory.path() + "/step-4.1");
    CHECK(saved[1].path == directory.path() + "/step-4.2");
    for (const std::int64_t step : {3, 4}) {
      CHECK(zerospan::load_checkpoint(rank.engine(), directory.path(), {.step = step}).step == step);
    }
    CHECK_THROWS_AS(zerospan::load_checkpoint(rank.engine(), directory.path(), {.step = 2}), CheckpointError);
    return 0;
  });
}

TEST_CASE("the host's bytes are those of the moment") {
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    GatedFiles files;
    std::vector<std::byte> position(3, std::byte{1});
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.host_bytes = position, .files = &files});
    position.assign(3, std::byte{2});
    files.open_gate();
    saver.wait();
    const LoadedCheckpoint loaded = zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files.files()});
    CHECK(loaded.host_bytes.at(0) == std::vector<std::byte>(3, std::byte{1}));
    return 0;
  });
}

TEST_CASE("two savers save into directories of their own at once, and one directory is one saver's") {
  GatedFiles files;
  on_small_ranks(2, [&](SmallRank& rank, auto& communicator) {
    CheckpointSaver first{rank.engine(), "/first"};
    CheckpointSaver second{rank.engine(), "/second"};
    CheckpointSaver late{rank.engine(), "/first"};
    rank.step();
    const std::uint64_t hash = rank.hash();
    first.start({.files = &files});
    second.start({.files = &files});
    CHECK_THROWS_AS(late.start({.files = &files}), CheckpointError);
    CHECK(!late.is_saving());
    if (communicator.rank().value == 0) files.open_gate();
    rank.step();
    CHECK(first.wait().back().step == 1);
    CHECK(second.wait().back().step == 1);
    CHECK(late.start({.files = &files}).empty());
    CHECK(late.wait().back().step == 2);
    for (const char* const directory : {"/first", "/second"}) {
      zerospan::load_checkpoint(rank.engine(), directory, {.step = 1, .files = &files.files()});
      CHECK(rank.hash() == hash);
    }
    return 0;
  });
}

/// Memory that is no engine's to touch, and that is not written to while the gate is closed.
class GatedTier {
 public:
  explicit GatedTier(zerospan::HostDevice& device) : memory_{device} {}

  std::string_view name() const { return "a tier with a gate"; }
  std::size_t alignment() const { return 512; }
  zerospan::Addressable addressable() const { return zerospan::Addressable::nowhere; }
  void reserve(zerospan::Bytes bytes, std::string_view what) { memory_.reserve(bytes, what); }
  void cancel(zerospan::Bytes bytes) noexcept { memory_.cancel(bytes); }
  zerospan::Extent place(std::size_t bytes) { return memory_.place(bytes); }
  void remove(const zerospan::Extent& extent) noexcept { memory_.remove(extent); }
  std::byte* view(const zerospan::Extent&) { return nullptr; }
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    std::memcpy(data, memory_.view(extent) + offset, bytes);
    return {};
  }
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes) {
    Write write{memory_.view(extent) + offset, data, bytes, zerospan::Promise{"a write"}};
    const zerospan::Completion end = write.promise.completion();
    const std::scoped_lock lock{mutex_};
    is_open_ ? write.happen(fails_) : held_.push_back(std::move(write));
    return end;
  }
  zerospan::TierCounters counters() const { return memory_.counters(); }

  /// Nothing is being written.
  void close_gate() {
    const std::scoped_lock lock{mutex_};
    is_open_ = false;
  }

  /// @param fails Whether what is written from now on, or was held, fails.
  void open_gate(bool fails = false) {
    std::vector<Write> held;
    {
      const std::scoped_lock lock{mutex_};
      is_open_ = true;
      fails_ = fails;
      held = std::exchange(held_, {});
    }
    for (Write& write : held) write.happen(fails);
  }

 private:
  struct Write {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes;
    zerospan::Promise promise;

    void happen(bool fails) {
      if (fails) {
        return promise.fail(std::make_exception_ptr(
            zerospan::IoError{EIO, "write", "a tier with a gate", 0, bytes, std::source_location::current()}));
      }
      std::memcpy(to, from, bytes);
      promise.succeed();
    }
  };

  zerospan::HostTier memory_;
  std::mutex mutex_;
  std::vector<Write> held_;
  bool is_open_ = true;
  bool fails_ = false;
};

/// Many sub-groups, of which few fit into the staging memory: most updates of a step are still to come when it ends.
class GatedRank {
 public:
  explicit GatedRank(zerospan::ThreadCommunicator& communicator)
      : rank_{communicator.rank().value},
        engine_{std::in_place, 3, communicator, device_, zerospan::Placement{memory_, memory_, tier_},
                zerospan::AdamW{},
                zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0},
                                        .staging = zerospan::Bytes{std::size_t{160} << 10},
                                        .sub_group_elements = 4096}} {
    for (int i = 0; i < 8; ++i) {
      parameters_.emplace_back(*engine_, "p" + std::to_string(i), zerospan::Shape{8192}, zerospan::init::normal(1.0F));
    }
  }

  /// What is held would keep the engine from ending, if another rank has failed first.
  ~GatedRank() { tier_.open_gate(); }

  zerospan_test::AnyEngine& engine() { return *engine_; }
  std::uint64_t hash() { return zerospan_test::hash_masters(*engine_); }
  GatedTier& tier() { return tier_; }
  void end() { engine_.reset(); }

  void step() {
    const auto step = engine_->progress().step;
    for (const auto& parameter : parameters_) {
      const auto full = parameter.gather(zerospan::calling_thread);
      auto gradient = parameter.gradient(zerospan::calling_thread);
      for (std::size_t k = 0; k < full->size; ++k) {
        gradient->data[k] = full->data[k] + zerospan_test::noise(0, {rank_, step, 0}, k);
      }
      gradient.commit();
    }
    engine_->step();
  }

 private:
  zerospan::HostDevice device_{{.device_budget = zerospan::Bytes{std::size_t{4} << 20},
                                .host_budget = zerospan::Bytes{std::size_t{4} << 20}}};
  zerospan::DeviceTier memory_{device_};
  GatedTier tier_{device_};
  int rank_;
  std::optional<zerospan_test::AnyEngine> engine_;
  std::vector<zerospan::PartitionedParameter<zerospan_test::Array<float>>> parameters_;
};

template <class F>
auto on_gated_ranks(int ranks, F f) {
  return zerospan::run_ranks(ranks,
                             [&](zerospan::ThreadCommunicator communicator) {
                               GatedRank rank{communicator};
                               return f(rank);
                             },
                             {.timeout = std::chrono::seconds{30}});
}

TEST_CASE("a save waits for no update of the step before, and what is saved is what they come to") {
  const auto train = [](bool saves) {
    VolatileFiles files;
    return on_gated_ranks(2, [&](GatedRank& rank) {
      rank.step();
      rank.step();
      CheckpointSaver saver{rank.engine(), "/run"};
      if (saves) {
        rank.engine().synchronize();
        rank.tier().close_gate();
        rank.step();
        CHECK(saver.start({.files = &files}).empty());
        CHECK(saver.poll().empty());
        rank.tier().open_gate();
      } else {
        rank.step();
      }
      const std::uint64_t before = saves ? 0 : rank.hash();
      rank.step();
      rank.step();
      const std::uint64_t after = rank.hash();
      if (!saves) return std::pair{before, after};
      CHECK(saver.wait().back().step == 3);
      zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files});
      const std::uint64_t loaded = rank.hash();
      rank.step();
      rank.step();
      CHECK(rank.hash() == after);
      return std::pair{loaded, after};
    })[0];
  };
  CHECK(train(true) == train(false));
}

TEST_CASE("who waits for a save has the updates made that it needs") {
  VolatileFiles files;
  on_gated_ranks(2, [&](GatedRank& rank) {
    rank.step();
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.files = &files});
    CHECK(saver.wait().back().step == 1);
    rank.step();
    saver.start({.files = &files});
    CHECK(saver.start({.files = &files}).empty());  // the first one's parts are written by now
    CHECK(saver.wait().size() == 2);
    return 0;
  });
}

// Failures.

TEST_CASE("a save of states that an update has not been able to write fails, and so does the training") {
  VolatileFiles files;
  const auto train = [&] {
    on_gated_ranks(2, [&](GatedRank& rank) {
      rank.step();
      rank.engine().synchronize();
      rank.tier().close_gate();
      rank.step();
      CheckpointSaver saver{rank.engine(), "/run"};
      saver.start({.files = &files});
      rank.tier().open_gate(true);
      saver.wait();
      return 0;
    });
  };
  CHECK_THROWS_WITH_AS(train(), doctest::Contains("a tier with a gate"), std::exception);
  CHECK(files.list("/run/step-2").size() < 3);
}

TEST_CASE("an engine that ends with updates still to be made ends a save that waits for them") {
  VolatileFiles files;
  on_gated_ranks(1, [&](GatedRank& rank) {
    rank.step();
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.files = &files});
    rank.end();
    CHECK_THROWS_AS(saver.wait(), zerospan::LeaseError);
    return 0;
  });
  CHECK(files.list("/run/step-1").empty());
}

TEST_CASE("a save that fails meanwhile is told by whoever learns of it first, and the next one is right") {
  enum class Ask : std::uint8_t { poll, wait, start };
  for (const Ask ask : {Ask::poll, Ask::wait, Ask::start}) {
    VolatileFiles files;
    on_small_ranks(2, [&](SmallRank& rank, auto& communicator) {
      const auto all = [&](const std::function<void()>& change) {
        communicator.barrier({zerospan::calling_thread, "before it changes"});
        if (communicator.rank().value == 0) change();
        communicator.barrier({zerospan::calling_thread, "it has changed"});
      };
      CheckpointSaver saver{rank.engine(), "/run"};
      rank.step();
      saver.start({.files = &files});
      saver.wait();
      rank.step();
      all([&] { files.fill_up_at(8); });
      saver.start({.files = &files});
      rank.step();
      const auto learn = [&] {
        if (ask == Ask::wait) saver.wait();
        if (ask == Ask::start) saver.start({.files = &files});
        while (ask == Ask::poll && saver.is_saving()) saver.poll();
      };
      try {
        learn();
        FAIL("the disk was full");
      } catch (const CheckpointError& error) {
        CHECK(error.error_number() == ENOSPC);
      }
      CHECK(!saver.is_saving());
      CHECK(saver.poll().empty());
      CHECK(zerospan::find_checkpoint(rank.engine(), "/run", {.files = &files}) == 1);
      all([&] { files.recover(); });
      const std::uint64_t hash = rank.hash();
      saver.start({.keep = 1, .files = &files});
      CHECK(saver.wait().back().step == 3);
      rank.step();
      zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files});
      CHECK(rank.hash() == hash);
      return 0;
    });
  }
}

/// Two saves, of steps 2 and 3, are under way at once, and one of their operations fails. @return How many are told.
int failures_of_two(VolatileFiles& files, const std::function<void()>& fault) {
  const auto failures = on_small_ranks(2, [&](SmallRank& rank, auto& communicator) {
    CheckpointSaver saver{rank.engine(), "/run"};
    const SaveOptions options{.keep = 1, .files = &files};
    std::vector<std::uint64_t> hashes{rank.hash()};
    const auto step = [&] {
      rank.step();
      hashes.push_back(rank.hash());
    };
    step();
    saver.start(options);
    CHECK(saver.wait().back().step == 1);
    communicator.barrier({zerospan::calling_thread, "before the fault"});
    if (communicator.rank().value == 0) fault();
    communicator.barrier({zerospan::calling_thread, "the fault is there"});
    int failed = 0;
    std::int64_t last = 1;
    const auto attempt = [&](const std::function<std::vector<SavedCheckpoint>()>& call) {
      try {
        for (const SavedCheckpoint& saved : call()) last = saved.step;
      } catch (const CheckpointError& error) {
        ++failed;
        CHECK(error.error_number() == EIO);
      }
    };
    for (int i = 0; i < 2; ++i) {
      step();
      attempt([&] { return saver.start(options); });
    }
    step();
    while (saver.is_saving()) attempt([&] { return saver.wait(); });
    communicator.barrier({zerospan::calling_thread, "all is saved"});
    files.recover();  // what has not failed yet is to fail no more: what follows is no part of a save
    communicator.barrier({zerospan::calling_thread, "what is saved can be read"});
    const auto found = zerospan::find_checkpoint(rank.engine(), "/run", {.files = &files});
    CHECK(found == zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files}).step);
    CHECK(found.value() >= last);
    CHECK(rank.hash() == hashes.at(static_cast<std::size_t>(found.value())));
    return failed;
  });
  CHECK(failures[0] == failures[1]);
  return failures[0];
}

TEST_CASE("of two saves under way one fails, whichever operation it is, and the other does not") {
  constexpr std::size_t one_of = zerospan_test::is_sanitized ? 5 : 1;
  int failed = 0;
  int in_a_row = 0;
  for (std::size_t operation = 0; in_a_row < 3; operation += one_of) {
    CAPTURE(operation);
    VolatileFiles files;
    const int failures = failures_of_two(files, [&] { files.fail_at(operation, EIO); });
    CHECK(failures <= 1);
    failed += failures;
    in_a_row = failures == 0 && operation > 20 ? in_a_row + 1 : 0;
    REQUIRE(operation < 300);
  }
  CHECK(failed > 5);
}

TEST_CASE("a checkpoint that is complete is told, though the call that learns of it throws what is of another") {
  enum class Ask : std::uint8_t { wait, start, start_elsewhere };
  for (const Ask ask : {Ask::wait, Ask::start, Ask::start_elsewhere}) {
    CAPTURE(static_cast<int>(ask));
    ToldFiles files{[](ToldFiles::Operation, const std::string& path) {
      if (path == "/run/step-2/rank-0.json") zerospan::throw_io_error(ENOSPC, "making a file", path, 0, 0);
    }};
    VolatileFiles others;
    on_small_ranks(1, [&](SmallRank& rank, auto&) {
      CheckpointSaver saver{rank.engine(), "/run"};
      for (int i = 0; i < 2; ++i) {
        rank.step();
        CHECK(saver.start({.files = &files}).empty());
      }
      rank.step();
      const auto learn = [&] {
        if (ask == Ask::wait) saver.wait();
        if (ask == Ask::start) saver.start({.files = &files});
        if (ask == Ask::start_elsewhere) saver.start({.files = &others});
      };
      CHECK_THROWS_AS(learn(), CheckpointError);
      CHECK(!saver.is_saving());
      const std::vector<SavedCheckpoint> saved = saver.poll();
      REQUIRE(saved.size() == 1);
      CHECK(saved[0].step == 1);
      CHECK(saver.poll().empty());
      return 0;
    });
  }
}

TEST_CASE("a save that cannot begin begins on no rank, whichever is first to know") {
  std::atomic<bool> is_removed = false;
  ToldFiles files{[&](ToldFiles::Operation operation, const std::string& path) {
    if (operation == ToldFiles::Operation::remove && path == "/run/step-1") is_removed = true;
    if (operation == ToldFiles::Operation::create && path.ends_with("rank-1.data")) await_a_while(is_removed);
  }};
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    rank.step();
    CheckpointSaver saver{rank.engine(), "/run"};
    CHECK_THROWS_AS(saver.start({.buffer = zerospan::Bytes{1000}, .files = &files}), zerospan::ConfigurationError);
    CHECK(!saver.is_saving());
    saver.start({.files = &files});
    CHECK(saver.wait().back().step == 1);
    return 0;
  });
}

TEST_CASE("a saver that ends gives up what it has begun, and the next one removes it") {
  GatedFiles files;
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    rank.step();
    {
      CheckpointSaver saver{rank.engine(), "/run"};
      saver.start({.files = &files});
      files.open_gate();
    }
    const std::optional<std::int64_t> found =
        zerospan::find_checkpoint(rank.engine(), "/run", {.files = &files.files()});
    CHECK(!found);
    rank.step();
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.files = &files});
    CHECK(saver.wait().back().step == 2);
    return 0;
  });
}

TEST_CASE("nothing is removed of what was given up before every rank has given it up") {
  std::atomic<bool> has_begun_again = false;
  std::atomic<bool> is_late = false;
  std::atomic<bool> was_awaited = false;
  int locks = 0;
  ToldFiles files{[&](ToldFiles::Operation operation, const std::string& path) {
    if (operation == ToldFiles::Operation::lock && ++locks == 2) {
      was_awaited = is_late.load();
      has_begun_again = true;
    }
    // The first save begins late on rank 1.
    if (operation == ToldFiles::Operation::create && path.ends_with("rank-1.data") && !is_late) {
      await_a_while(has_begun_again);
      is_late = true;
    }
  }};
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    rank.step();
    const std::uint64_t hash = rank.hash();
    CheckpointSaver{rank.engine(), "/run"}.start({.files = &files});
    CheckpointSaver saver{rank.engine(), "/run"};
    saver.start({.files = &files});
    CHECK(saver.wait().back().step == 1);
    zerospan::load_checkpoint(rank.engine(), "/run", {.files = &files});
    CHECK(rank.hash() == hash);
    return 0;
  });
  CHECK(was_awaited);
}

TEST_CASE("an engine that ends is not read any more, and its save fails") {
  for (const bool saver_ends_first : {true, false}) {
    VolatileFiles files;
    std::optional<CheckpointSaver> saver;
    on_small_ranks(1, [&](SmallRank& rank, auto&) {
      rank.step();
      saver.emplace(rank.engine(), "/run");
      saver->start({.files = &files});
      if (saver_ends_first) saver.reset();
      return 0;
    });
    if (!saver) continue;
    CHECK_THROWS_AS(saver->poll(), zerospan::LeaseError);
    CHECK(!saver->is_saving());
  }
}

TEST_CASE("a save begins between two steps") {
  on_small_ranks(1, [&](SmallRank& rank, auto&) {
    VolatileFiles files;
    CheckpointSaver saver{rank.engine(), "/run"};
    const auto lease = rank.parameters()[0].gather(zerospan::calling_thread);
    CHECK_THROWS_AS(saver.start({.files = &files}), zerospan::LeaseError);
    CHECK(!saver.is_saving());
    return 0;
  });
}

}  // namespace
