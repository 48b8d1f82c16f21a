#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Collective;
using zerospan::GatherPart;
using zerospan::Rank;
using zerospan::Reduction;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Budget;
using zerospan_test::Configuration;
using zerospan_test::Place;

/// Lets other threads go first, a random number of times. Thread-safe.
class Dawdler {
 public:
  explicit Dawdler(std::uint64_t seed) : state_{seed} {}

  void dawdle() {
    std::uint64_t x = state_.fetch_add(0x9e3779b97f4a7c15U, std::memory_order_relaxed);
    x = (x ^ (x >> 31)) * 0x94d049bb133111ebU;
    for (std::uint64_t yields = (x >> 40) % 50; yields > 0; --yields) std::this_thread::yield();
  }

 private:
  std::atomic<std::uint64_t> state_;
};

/// What a rank called, in order.
using Log = std::vector<std::string>;

/// A communicator that writes down what it is asked for, and takes its time.
class RecordingCommunicator {
 public:
  RecordingCommunicator(ThreadCommunicator inner, std::shared_ptr<Log> log, std::shared_ptr<Dawdler> dawdler)
      : inner_{std::move(inner)}, log_{std::move(log)}, dawdler_{std::move(dawdler)} {}

  Rank rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  RecordingCommunicator duplicate() { return {inner_.duplicate(), log_, dawdler_}; }
  void abort(const std::string& reason) noexcept { inner_.abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    std::size_t bytes = 0;
    for (const GatherPart& part : parts) bytes += part.shard_bytes;
    begin("all-gather", what, bytes);
    inner_.all_gather(what, parts);
    dawdler_->dawdle();
  }
  void reduce_scatter(Collective what, const Reduction& reduction) {
    begin("reduce-scatter", what, reduction.elements);
    inner_.reduce_scatter(what, reduction);
    dawdler_->dawdle();
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    begin("reduce", what, reduction.elements);
    inner_.reduce(what, reduction, root);
    dawdler_->dawdle();
  }
  void all_reduce(Collective what, const Reduction& reduction) {
    begin("all-reduce", what, reduction.elements);
    inner_.all_reduce(what, reduction);
    dawdler_->dawdle();
  }
  void all_reduce(Collective what, std::span<std::int64_t> integers) {
    begin("all-reduce", what, integers.size());
    inner_.all_reduce(what, integers);
    dawdler_->dawdle();
  }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    begin("broadcast", what, bytes.size());
    inner_.broadcast(what, bytes, root);
    dawdler_->dawdle();
  }
  void barrier(Collective what) {
    begin("barrier", what, 0);
    inner_.barrier(what);
  }

 private:
  void begin(const char* kind, Collective what, std::size_t size) {
    log_->push_back(std::string{kind} + " '" + std::string{what.name} + "' " + std::to_string(size));
    dawdler_->dawdle();
  }

  ThreadCommunicator inner_;
  std::shared_ptr<Log> log_;
  std::shared_ptr<Dawdler> dawdler_;
};

static_assert(zerospan::TrainingCommunicator<RecordingCommunicator>);

/// An I/O engine that takes its time before and after each transfer.
class DawdlingIoEngine {
 public:
  explicit DawdlingIoEngine(Dawdler& dawdler) : dawdler_{&dawdler} {}

  void submit(const zerospan::IoRequest& request, zerospan::IoCallback callback) {
    dawdler_->dawdle();
    inner_.submit(request, [dawdler = dawdler_, callback = std::move(callback)](std::int64_t result) {
      dawdler->dawdle();
      callback(result);
    });
  }
  std::size_t queue_depth() const { return inner_.queue_depth(); }
  std::string_view name() const { return "dawdling"; }

 private:
  Dawdler* dawdler_;
  ThreadedIoEngine inner_;
};

static_assert(zerospan::IoEngine<DawdlingIoEngine>);

/// What must not depend on time.
struct Observation {
  zerospan_test::TrainingResult result;
  std::vector<Log> logs;                            ///< A rank.
  std::vector<std::vector<std::size_t>> addresses;  ///< A rank: of all leases, from the first one's on.
  std::vector<std::array<std::uint64_t, 5>> prefetches;
  std::vector<std::size_t> peaks;

  friend bool operator==(const Observation&, const Observation&) = default;
};

Observation observe(const Configuration& c, std::uint64_t seed) {
  const auto ranks = static_cast<std::size_t>(c.training.ranks);
  Observation seen;
  seen.logs.resize(ranks);
  seen.addresses.resize(ranks);
  seen.prefetches.resize(ranks);
  seen.peaks.resize(ranks);
  seen.result = zerospan_test::join_results(zerospan::run_ranks(c.training.ranks, [&](ThreadCommunicator communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank().value);
    const auto dawdler = std::make_shared<Dawdler>(seed * 100 + rank);
    const auto log = std::make_shared<Log>();
    RecordingCommunicator recording{std::move(communicator), log, dawdler};
    DawdlingIoEngine io{*dawdler};
    const zerospan_test::Needs needs{c, recording.rank()};
    const bool is_tight = c.budget == Budget::tight;
    zerospan_test::Memory<DawdlingIoEngine> memory{io, is_tight ? needs.device() : 16_MiB,
                                                   is_tight ? needs.host() : 16_MiB};
    zerospan_test::AnyEngine engine{c.stage,
                                    recording,
                                    memory.device,
                                    memory.placement(c.parameters, c.gradients, c.optimizer),
                                    c.training.optimizer,
                                    zerospan_test::engine_options(c)};
    const zerospan_test::TrainingResult result = zerospan_test::train_rank(engine, recording.rank(), c);
    const auto& counters = engine.statistics().prefetch;
    seen.prefetches[rank] = {counters.hits, counters.misses, counters.mended, counters.dropped, counters.kept};
    seen.peaks[rank] = memory.device.memory().peak().count;
    seen.logs[rank] = *log;
    return result;
  }));
  return seen;
}

TEST_CASE("the collectives, prefetches and peaks do not depend on delays") {
  const zerospan::AnyPartitioner slices = zerospan::Slices{};
  const zerospan::AnyPartitioner owners = zerospan::Owners{};
  for (const auto& [stage, budget, partition] :
       {std::tuple{3, Budget::tight, slices}, std::tuple{3, Budget::roomy, slices},
        std::tuple{3, Budget::tight, owners}, std::tuple{3, Budget::roomy, owners},
        std::tuple{2, Budget::roomy, slices}}) {
    Configuration c;
    c.stage = stage;
    c.budget = budget;
    c.partition = partition;
    if (stage == 3) c.parameters = Place::nvme;
    c.gradients = c.optimizer = Place::nvme;
    c.persistence_threshold = 0_KiB;
    c.training.ranks = 3;
    c.training.micro_batches = 2;
    c.steps = 4;
    CAPTURE(c.describe());
    const Observation first = observe(c, 1);
    CHECK(first.logs[0].size() > 100);
    CHECK(std::set<std::string>(first.logs[0].begin(), first.logs[0].end()).size() > 20);
    for (const Log& log : first.logs) CHECK(log == first.logs[0]);
    for (const auto& prefetch : first.prefetches) CHECK(prefetch == first.prefetches[0]);
    if (stage == 3) CHECK(first.prefetches[0][0] > 0);
    for (std::uint64_t seed = 2; seed <= (zerospan_test::is_sanitized ? 2 : 4); ++seed) {
      CAPTURE(seed);
      const bool is_same = observe(c, seed) == first;
      CHECK(is_same);
    }
  }
}

}  // namespace
