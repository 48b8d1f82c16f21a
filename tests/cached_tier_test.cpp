#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#include "support/aligned_tier.hpp"
#include "support/deferred_tier.hpp"
#include "support/sample.hpp"
#include "support/tier_conformance.hpp"

namespace {

using zerospan::CachedTier;
using zerospan::IoDirection;
using zerospan::IoError;
using zerospan_test::AlignedBuffer;
using zerospan_test::AlignedTier;
using zerospan_test::DeferredTier;
using zerospan_test::make_arena;
using zerospan_test::page;
using zerospan_test::Transfers;
using namespace zerospan;
using namespace zerospan::literals;

/// @tparam line Bytes of a line.
template <std::size_t line>
struct CachedNvmeRig {
  static constexpr Transfers transfers = Transfers::counted_elsewhere;
  std::string_view refuser() const { return nvme.nvme.name(); }

  struct Nvme {
    zerospan_test::NvmeRig<ThreadedIoEngine> rig;
    NvmeTier<ThreadedIoEngine>& nvme = rig.tier;
  } nvme;
  Arena memory = make_arena("host memory", 256_KiB);
  CachedTier tier{nvme.nvme, memory, {.bytes = 256_KiB, .line = zerospan::Bytes{line}}};
};

struct CachedHostRig {
  static constexpr Transfers transfers = Transfers::counted_elsewhere;
  std::string_view refuser() const { return host.tier.name(); }
  zerospan_test::HostRig host;
  Arena memory = make_arena("cache", 100_KiB);
  CachedTier tier{host.tier, memory, {.bytes = 100_KiB, .line = zerospan::Bytes{1000}}};
};

}  // namespace

ZEROSPAN_TEST_TIERS(CachedNvmeRig<4096>, CachedNvmeRig<20480>, CachedNvmeRig<262144>, CachedHostRig);

namespace {

static_assert(std::is_constructible_v<CachedTier, HostTier&, Arena&, CachedTierOptions>);
static_assert(!std::is_constructible_v<CachedTier, HostTier, Arena&, CachedTierOptions>);  // it would be gone

TEST_CASE("options that contradict the tier are refused") {
  zerospan_test::HostRig host;
  Arena memory = make_arena("cache", 64_KiB);
  AlignedTier sector{host.tier, 512};
  AlignedTier coarse{host.tier, 8192};
  CHECK_THROWS_AS((CachedTier{sector, memory, {.bytes = 64_KiB, .line = zerospan::Bytes{0}}}), ConfigurationError);
  CHECK_THROWS_AS((CachedTier{sector, memory, {.bytes = 64_KiB, .line = zerospan::Bytes{1000}}}), ConfigurationError);
  CHECK_THROWS_AS((CachedTier{sector, memory, {.bytes = zerospan::Bytes{1023}, .line = zerospan::Bytes{1024}}}),
                  ConfigurationError);
  CHECK_THROWS_AS((CachedTier{coarse, memory, {.bytes = 64_KiB, .line = 8_KiB}}), ConfigurationError);
  CHECK_THROWS_AS((CachedTier{sector, memory, {.bytes = 128_KiB, .line = 1_KiB}}), BudgetError);
  CHECK(memory.used() == 0_KiB);
  {
    const CachedTier tier{sector, memory, {.bytes = zerospan::Bytes{5000}, .line = 1_KiB}};
    CHECK(memory.used() == 4_KiB);
    CHECK(tier.addressable() == Addressable::nowhere);
    CHECK(tier.alignment() == 512);
  }
  CHECK(memory.used() == 0_KiB);
}

/// A cache over a tier that the test commands.
struct Rig {
  explicit Rig(std::size_t lines, std::size_t line = page,
               std::chrono::milliseconds drain_timeout = std::chrono::seconds{10})
      : tier{std::in_place, deferred, memory,
             CachedTierOptions{.bytes = zerospan::Bytes{lines * line},
                               .line = zerospan::Bytes{line},
                               .drain_timeout = drain_timeout}} {}

  Arena storage = make_arena("storage", 4_MiB);
  HostTier host{storage};
  DeferredTier<HostTier> deferred{host, 512};
  Arena memory = make_arena("cache", 1_MiB);
  std::optional<CachedTier> tier;
  AlignedBuffer buffer{1 << 20};

  void read(const Extent& extent, std::size_t first, std::size_t bytes) {
    tier->read(extent, first, buffer.data(), bytes).wait();
  }
  void write(const Extent& extent, std::size_t first, std::size_t bytes) {
    tier->write(extent, first, buffer.data(), bytes).wait();
  }

  /// Bytes that the tier below has transferred since the last time.
  std::size_t moved(IoDirection direction) {
    std::size_t sum = 0;
    for (const auto& transfer : deferred.transfers()) sum += transfer.direction == direction ? transfer.bytes : 0;
    return sum;
  }
};

TEST_CASE("a cycle of reads and writes moves only what does not fit") {
  constexpr std::size_t lines = 16;
  for (const std::size_t room : {1U, 8U, 15U, 16U}) {
    Rig rig{room};
    const Extent extent = rig.tier->place(lines * page);
    for (int cycle = 0; cycle < 5; ++cycle) {
      for (std::size_t i = 0; i < lines; ++i) {
        rig.read(extent, i * page, page);
        rig.write(extent, i * page, page);
      }
      CAPTURE(room);
      CAPTURE(cycle);
      const auto transfers = rig.deferred.transfers();
      const auto count = [&](IoDirection direction) {
        return static_cast<std::size_t>(
            std::ranges::count(transfers, direction, &DeferredTier<HostTier>::Transfer::direction));
      };
      CHECK(count(IoDirection::read) == (cycle == 0 ? lines : lines - room));
      CHECK(count(IoDirection::write) == lines - room);
    }
    const CacheCounters counters = rig.tier->cache_counters();
    CHECK(counters.hits.count == 4 * room * page);
    CHECK(counters.misses.count == (5 * lines - 4 * room) * page);
    CHECK(counters.evictions.count == (lines - room) * page);  // of the first cycle
  }
}

TEST_CASE("a cycle of reads of several lines each moves only what does not fit") {
  constexpr std::size_t lines = 96;
  for (const std::size_t at_once : {3U, 12U}) {
    for (const std::size_t room : {24U, 48U, 96U}) {
      CAPTURE(at_once);
      CAPTURE(room);
      Rig rig{room};
      const Extent extent = rig.tier->place(lines * page);
      for (int cycle = 0; cycle < 4; ++cycle) {
        CAPTURE(cycle);
        for (std::size_t i = 0; i < lines; i += at_once) rig.read(extent, i * page, at_once * page);
        CHECK(rig.moved(IoDirection::read) == (cycle == 0 ? lines : lines - room) * page);
      }
    }
  }
}

TEST_CASE("sweeps forward and backward read at most what does not fit") {
  constexpr std::size_t lines = 16;
  for (const std::size_t room : {1U, 4U, 8U, 12U}) {
    Rig rig{room};
    const Extent extent = rig.tier->place(lines * page);
    for (std::size_t sweep = 0; sweep < 8; ++sweep) {
      for (std::size_t i = 0; i < lines; ++i) rig.read(extent, (sweep % 2 == 0 ? i : lines - 1 - i) * page, page);
      const std::size_t bytes = rig.moved(IoDirection::read);
      if (sweep >= 4) CHECK(bytes <= (lines - room) * page);
    }
  }
}

TEST_CASE("a line that is read in parts is one use, and each part is kept") {
  Rig rig{2};
  const Extent extent = rig.tier->place(4 * page);
  for (int cycle = 0; cycle < 4; ++cycle) {
    for (std::size_t part = 0; part < 16; ++part) rig.read(extent, part * 1024, 1024);
    CHECK(rig.moved(IoDirection::read) == (cycle == 0 ? 4 : 2) * page);
  }
}

TEST_CASE("contiguous misses are one transfer, and so are contiguous writes that pass by") {
  Rig rig{2};
  const Extent extent = rig.tier->place(10 * page);
  rig.write(extent, 512, 9 * page);
  auto transfers = rig.deferred.transfers();
  REQUIRE(transfers.size() == 1);
  CHECK(transfers[0].begin == extent.offset + 512);
  CHECK(transfers[0].bytes == 9 * page);

  rig.read(extent, 4 * page, 2 * page);  // resident from now on
  rig.deferred.transfers();
  rig.read(extent, 1024, 9 * page);
  transfers = rig.deferred.transfers();
  REQUIRE(transfers.size() == 2);
  CHECK(transfers[0].begin == extent.offset + 1024);
  CHECK(transfers[0].bytes == 4 * page - 1024);
  CHECK(transfers[1].begin == extent.offset + 6 * page);
  CHECK(transfers[1].bytes == 3 * page + 1024);
}

TEST_CASE("a part of a line that is in memory is not read again") {
  Rig rig{1};
  const Extent extent = rig.tier->place(page);
  const auto moved_by = [&](std::size_t first, std::size_t bytes) {
    rig.read(extent, first, bytes);
    return rig.moved(IoDirection::read);
  };
  CHECK(moved_by(1024, 1024) == 1024);
  CHECK(moved_by(1024, 1024) == 0);
  CHECK(moved_by(512, 1024) == 512);   // the end of it is there
  CHECK(moved_by(1536, 1024) == 512);  // the begin of it is there
  CHECK(moved_by(512, 2048) == 0);     // all of it is there by now
  CHECK(moved_by(3584, 512) == 512);   // apart: passes by
  CHECK(moved_by(3584, 512) == 512);
  CHECK(moved_by(0, page) == page);  // around it: one transfer
  CHECK(moved_by(0, page) == 0);
}

/// A cache of one line with 1024 bytes of `dirty` that were written to memory alone. The next read of `other` takes the
/// place.
struct DirtyRig : Rig {
  explicit DirtyRig(std::chrono::milliseconds drain_timeout = std::chrono::seconds{10}) : Rig{1, page, drain_timeout} {
    read(dirty, 0, page);
    buffer.fill(1);
    write(dirty, 512, 1024);
    CHECK(moved(IoDirection::write) == 0);
  }

  Extent dirty = tier->place(page);
  Extent other = tier->place(page);
};

TEST_CASE("what is resident is written when it is evicted") {
  DirtyRig rig;
  rig.read(rig.other, 0, page);
  const auto transfers = rig.deferred.transfers();
  REQUIRE(transfers.size() == 2);
  CHECK(transfers[0].direction == IoDirection::write);
  CHECK(transfers[0].begin == rig.dirty.offset + 512);
  CHECK(transfers[0].bytes == 1024);
  CHECK(rig.tier->cache_counters().evictions.count == page);
  AlignedBuffer written{page};
  written.fill(1);
  CHECK(std::memcmp(rig.host.view(rig.dirty) + 512, written.data(), 1024) == 0);
}

TEST_CASE("what is removed is forgotten") {
  DirtyRig rig;
  rig.tier->remove(rig.dirty);
  CHECK(rig.tier->place(page).offset == rig.dirty.offset);
  rig.read(rig.other, 0, page);
  CHECK(rig.moved(IoDirection::write) == 0);
  rig.read(rig.other, 0, page);  // it has the place
  CHECK(rig.moved(IoDirection::read) == 0);
}

TEST_CASE("a write-back that fails is not lost silently") {
  DirtyRig rig;
  rig.deferred.inject([](const auto& transfer) { return transfer.direction == IoDirection::write; });
  CHECK_THROWS_AS(rig.read(rig.other, 0, page), IoError);
  CHECK(rig.deferred.injected() == 1);
  rig.deferred.inject(nullptr);
  CHECK_NOTHROW(rig.read(rig.other, 0, page));
  CHECK_THROWS_AS(rig.read(rig.dirty, 0, page), IoError);
  CHECK_THROWS_AS(rig.read(rig.dirty, 512, 512), IoError);
  CHECK_THROWS_AS(rig.write(rig.dirty, 0, page), IoError);
  CHECK_NOTHROW(rig.read(rig.dirty, 1536, 1024));
  rig.tier->remove(rig.dirty);
  const Extent again = rig.tier->place(page);
  CHECK(again.offset == rig.dirty.offset);
  CHECK_NOTHROW(rig.read(again, 0, page));
}

TEST_CASE("a read that fails leaves nothing in memory") {
  Rig rig{4};
  const Extent extent = rig.tier->place(2 * page);
  rig.deferred.inject([](const auto&) { return true; });
  CHECK_THROWS_AS(rig.read(extent, 0, 2 * page), IoError);
  rig.deferred.inject(nullptr);
  rig.deferred.transfers();
  rig.read(extent, 0, 2 * page);
  CHECK(rig.moved(IoDirection::read) == 2 * page);
}

TEST_CASE("an extent that is being written back is given back after that") {
  for (const bool is_patient : {true, false}) {
    DirtyRig rig{is_patient ? std::chrono::hours{1} : std::chrono::milliseconds{0}};
    rig.deferred.hold();
    const Completion read = rig.tier->read(rig.other, 0, rig.buffer.data(), page);
    REQUIRE(rig.deferred.held() == 2);  // the write-back and the read
    if (is_patient) {
      std::thread remover{[&] { rig.tier->remove(rig.dirty); }};
      rig.deferred.release();
      remover.join();
      CHECK(rig.tier->place(page).offset == rig.dirty.offset);
    } else {
      rig.tier->remove(rig.dirty);
      CHECK(rig.tier->place(page).offset != rig.dirty.offset);
      rig.deferred.release();
    }
    CHECK(read.done());
    CHECK(!read.error());
  }
}

TEST_CASE("the destructor waits for transfers") {
  Rig rig{2};
  const Extent extent = rig.tier->place(page);
  rig.deferred.hold();
  const Completion read = rig.tier->read(extent, 0, rig.buffer.data(), page);
  std::thread releaser{[&] { rig.deferred.release(); }};
  rig.tier.reset();
  CHECK(read.done());
  releaser.join();
  CHECK(!read.error());
  CHECK(rig.memory.used() == 0_KiB);
}

TEST_CASE("transfers that outlive the tier end in an error and touch nothing") {
  Rig rig{2, page, std::chrono::milliseconds{0}};
  const Extent extent = rig.tier->place(page);
  rig.deferred.hold();
  const Completion read = rig.tier->read(extent, 0, rig.buffer.data(), page);
  const Completion write = rig.tier->write(extent, 0, rig.buffer.data(), page);
  rig.tier.reset();
  CHECK(rig.memory.used().count == 2 * page);  // forfeited
  CHECK(!read.done());
  rig.deferred.release();
  CHECK_THROWS_WITH_AS(read.wait(), (read.label() + " was given up: its tier is gone").c_str(), Error);
  CHECK_THROWS_AS(write.wait(), Error);
  CHECK(rig.deferred.transfers().size() == 1);
}

// A model of the contents.

enum class Delivery { at_once, at_random };

/// Random use of several extents, beside an array of bytes for each.
class ModelCheck {
 public:
  ModelCheck(std::uint64_t seed, Delivery delivery, unsigned failures_per_mille)
      : random_{seed}, delivery_{delivery}, rig_{1 + seed % 7, std::size_t{seed % 2 == 0 ? 2048U : 8192U}} {
    rig_.deferred.inject(
        [this, failures_per_mille](const auto&) { return fails_.operator()() % 1000 < failures_per_mille; });
  }

  void run(int batches) {
    for (int i = 0; i < batches; ++i) {
      if (models_.size() < 4) place();
      if (below(8) == 0) remove();
      if (delivery_ == Delivery::at_random) rig_.deferred.hold();
      for (std::size_t n = 1 + below(12); n > 0 && !models_.empty(); --n) start();
      while (rig_.deferred.held() > 0) rig_.deferred.release(below(rig_.deferred.held()));
      rig_.deferred.release();
      judge();
    }
    while (!models_.empty()) remove();
    CHECK(rig_.deferred.counters().used == 0_KiB);
  }

  std::size_t failures() const { return failures_; }
  std::size_t injected() const { return rig_.deferred.injected(); }
  CacheCounters counters() const { return rig_.tier->cache_counters(); }
  std::size_t bytes_read() const { return bytes_read_; }
  std::size_t bytes_missed() const { return rig_.deferred.counters().read.count; }

 private:
  static constexpr std::size_t unit = 512;

  struct Model {
    Extent extent;
    std::vector<std::byte> content;
    std::vector<bool> known;
  };

  struct Use {
    std::size_t model;
    std::size_t offset;
    bool is_write;
    AlignedBuffer data;
    Completion completion;
  };

  std::size_t below(std::size_t bound) { return random_() % bound; }

  void place() {
    const Extent extent = rig_.tier->place((1 + below(60)) * unit);
    models_.push_back({extent, std::vector<std::byte>(extent.bytes), std::vector<bool>(extent.bytes, false)});
  }

  void remove() {
    if (models_.empty()) return;
    const std::size_t i = below(models_.size());
    rig_.tier->remove(models_[i].extent);
    models_.erase(models_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  void start() {
    const std::size_t model = below(models_.size());
    const Extent& extent = models_[model].extent;
    const std::size_t units = extent.bytes / unit;
    const std::size_t first = below(units);
    const std::size_t bytes =
        (1 + below(below(3) == 0 ? units - first : std::min<std::size_t>(4, units - first))) * unit;
    const bool is_write = below(2) == 0;
    Use use{model, first * unit, is_write, AlignedBuffer{bytes}, {}};
    if (is_write) use.data.fill(random_());
    // Some name a part of the extent that was placed.
    const Extent named = below(4) == 0 ? Extent{extent.offset + use.offset, bytes} : extent;
    const std::size_t at = named.offset == extent.offset ? use.offset : 0;
    use.completion = is_write ? rig_.tier->write(named, at, use.data.data(), bytes)
                              : rig_.tier->read(named, at, use.data.data(), bytes);
    uses_.push_back(std::move(use));
  }

  /// Everything has ended: what was read is what was written before, in the order of the calls.
  void judge() {
    std::size_t failures = 0;
    for (Use& use : uses_) {
      REQUIRE(use.completion.done());
      Model& model = models_[use.model];
      const bool has_failed = use.completion.error() != nullptr;
      failures += has_failed;
      bool is_as_written = true;
      for (std::size_t i = 0; i < use.data.size(); ++i) {
        const std::size_t at = use.offset + i;
        if (use.is_write) {
          model.content[at] = use.data.data()[i];
          model.known[at] = !has_failed;
        } else if (!has_failed && model.known[at]) {
          is_as_written = is_as_written && model.content[at] == use.data.data()[i];
        }
      }
      REQUIRE(is_as_written);
      if (!use.is_write && !has_failed) bytes_read_ += use.data.size();
    }
    uses_.clear();
    if (injected() > injected_before_) REQUIRE(failures > 0);
    injected_before_ = injected();
    failures_ += failures;
  }

  std::mt19937_64 random_;
  std::mt19937_64 fails_{random_()};
  Delivery delivery_;
  Rig rig_;
  std::vector<Model> models_;
  std::vector<Use> uses_;
  std::size_t failures_ = 0;
  std::size_t injected_before_ = 0;
  std::size_t bytes_read_ = 0;
};

constexpr std::uint64_t seeds = zerospan_test::is_sanitized ? 3 : 28;

TEST_CASE("whatever is read is what was written last") {
  std::size_t hits = 0;
  std::size_t evictions = 0;
  for (const Delivery delivery : {Delivery::at_once, Delivery::at_random}) {
    for (std::uint64_t seed = 0; seed < seeds; ++seed) {
      CAPTURE(seed);
      ModelCheck check{seed, delivery, 0};
      check.run(120);
      CHECK(check.failures() == 0);
      CHECK(check.counters().misses.count == check.bytes_missed());
      CHECK(check.counters().misses.count + check.counters().hits.count == check.bytes_read());
      hits += check.counters().hits.count;
      evictions += check.counters().evictions.count;
    }
  }
  CHECK(hits > 0);
  CHECK(evictions > 0);
}

TEST_CASE("whatever fails below fails whoever suffers, and nothing else is lost") {
  std::size_t injected = 0;
  for (const Delivery delivery : {Delivery::at_once, Delivery::at_random}) {
    for (std::uint64_t seed = 100; seed < 100 + seeds; ++seed) {
      CAPTURE(seed);
      ModelCheck check{seed, delivery, 30};
      check.run(120);
      injected += check.injected();
    }
  }
  CHECK(injected > 3 * seeds);
}

// Two threads, as an engine has them.

TEST_CASE("reads and writes come from two threads") {
  zerospan_test::NvmeRig<ThreadedIoEngine> nvme;
  Arena memory = make_arena("cache", 128_KiB);
  CachedTier tier{nvme.tier, memory, {.bytes = 128_KiB, .line = 16_KiB}};
  constexpr std::size_t groups = 12;
  constexpr std::size_t bytes = 5 * page;
  const Extent extent = tier.place(groups * bytes);  // lines belong to two groups
  std::vector<AlignedBuffer> buffers;
  for (std::size_t g = 0; g < groups; ++g) {
    buffers.emplace_back(bytes).fill(g);
    tier.write(extent, g * bytes, buffers[g].data(), bytes).wait();
  }
  std::size_t mismatches = 0;
  std::vector<std::size_t> misses;
  for (std::size_t step = 0; step < 6; ++step) {
    const std::size_t before = tier.cache_counters().misses.count;
    std::vector<std::unique_ptr<Promise>> was_read;
    for (std::size_t g = 0; g < groups; ++g) was_read.push_back(std::make_unique<Promise>("a read"));
    std::thread writer{[&] {
      for (std::size_t g = 0; g < groups; ++g) {
        was_read[g]->completion().wait();
        buffers[g].fill((step + 1) * groups + g);
        tier.write(extent, g * bytes, buffers[g].data(), bytes).wait();
      }
    }};
    for (std::size_t g = 0; g < groups; ++g) {
      tier.read(extent, g * bytes, buffers[g].data(), bytes).wait();
      AlignedBuffer expected{bytes};
      expected.fill(step * groups + g);
      if (!(buffers[g] == expected)) ++mismatches;
      was_read[g]->succeed();
    }
    writer.join();
    misses.push_back(tier.cache_counters().misses.count - before);
  }
  CHECK(mismatches == 0);
  CHECK(misses[0] == groups * bytes);
  for (std::size_t step = 2; step < misses.size(); ++step) CHECK(misses[step] == misses[1]);
}

}  // namespace
