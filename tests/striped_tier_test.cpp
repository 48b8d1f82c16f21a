#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/measured_weights.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>

#include "support/aligned_tier.hpp"
#include "support/deferred_tier.hpp"
#include "support/tier_conformance.hpp"

namespace {

using namespace zerospan;
using namespace zerospan::literals;
using zerospan_test::AlignedBuffer;
using zerospan_test::AlignedTier;
using zerospan_test::DeferredTier;
using zerospan_test::make_arena;
using zerospan_test::page;
using zerospan_test::ScratchDirectory;
using zerospan_test::Transfers;

/// Two disks that share 2 MiB by weight.
template <std::size_t weight, std::size_t other_weight>
struct StripedNvmeRig {
  static constexpr Transfers transfers = Transfers::counted;
  static constexpr Bytes part(std::size_t w) { return Bytes{(2_MiB).count / (weight + other_weight) * w}; }

  ScratchDirectory directory;
  ThreadedIoEngine engine;
  NvmeTier<ThreadedIoEngine> first{engine, {.directory = directory.path(), .block = 8_KiB, .capacity = part(weight)}};
  NvmeTier<ThreadedIoEngine> second{engine,
                                    {.directory = directory.path(), .block = 8_KiB, .capacity = part(other_weight)}};
  StripedTier tier{{first, second}, {.stripe = 8_KiB, .weights = {weight, other_weight}}};
};

struct StripedHostRig {
  static constexpr Transfers transfers = Transfers::not_counted;
  Arena arenas[2]{make_arena("one", 1_MiB), make_arena("other", 1_MiB)};
  HostTier first{arenas[0]};
  HostTier second{arenas[1]};
  StripedTier tier{{first, second}, {.stripe = 4_KiB}};
};

struct AloneRig {
  static constexpr Transfers transfers = Transfers::counted;
  zerospan_test::NvmeRig<ThreadedIoEngine> nvme;
  StripedTier tier{{nvme.tier}};
};

}  // namespace

ZEROSPAN_TEST_TIERS(StripedNvmeRig<1, 1>, StripedNvmeRig<3, 1>, StripedHostRig, AloneRig);

namespace {

TEST_CASE("stripes are dealt in rounds, and every byte has one place") {
  for (const std::vector<std::size_t>& weights : {std::vector<std::size_t>{1}, {1, 1}, {4, 2}, {1, 3, 2}}) {
    const detail::Stripes stripes{weights, 10};
    std::vector<std::size_t> shares(weights.size());
    for (std::uint64_t byte = 0; byte < 300; ++byte) {
      const detail::Stripes::Piece piece = stripes.first_piece(byte, 1);
      CHECK(piece.begin == byte);
      CHECK(piece.bytes == 1);
      ++shares[piece.member];
      for (std::size_t i = 0; i < weights.size(); ++i) {
        CHECK(stripes.share(i, 0, byte + 1) == shares[i]);
        CHECK(stripes.share(i, byte, 1) == (i == piece.member ? 1 : 0));
      }
    }
  }
  const detail::Stripes stripes{{4, 2}, 10};  // 2 : 1
  CHECK(stripes.share(0, 0, 3000) == 2000);
  CHECK(stripes.first_piece(0, 100).bytes == 20);
  CHECK(stripes.first_piece(25, 100).member == 1);
  CHECK(stripes.first_piece(25, 100).bytes == 5);
  CHECK(stripes.first_piece(41, 3).bytes == 3);
}

TEST_CASE("options that contradict the tiers are refused") {
  zerospan_test::HostRig host;
  zerospan_test::DeviceRig device;
  zerospan_test::NvmeRig<ThreadedIoEngine> nvme;
  AlignedTier sector{host.tier, 512};
  AlignedTier sheet{host.tier, 2048};
  using Options = StripedTierOptions;
  CHECK_THROWS_AS(StripedTier(std::vector<TierRef>{}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({host.tier, nvme.tier}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({host.tier, device.tier}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({sector, sheet}, Options{.weights = {1}}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({sector, sheet}, Options{.weights = {1, 2, 3}}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({sector, sheet}, Options{.weights = {1, 0}}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({sector, sheet}, Options{.stripe = Bytes{0}}), ConfigurationError);
  CHECK_THROWS_AS(StripedTier({sector, sheet}, Options{.stripe = Bytes{3072}}), ConfigurationError);
  const StripedTier tier{{sector, sheet}, {.stripe = Bytes{6144}}};
  CHECK(tier.alignment() == 2048);
  CHECK(tier.addressable() == Addressable::nowhere);
  CHECK(tier.name() == "stripes over host memory and host memory");
}

/// Stripes over tiers that the test commands.
struct Rig {
  explicit Rig(std::vector<std::size_t> weights, Bytes capacity = 1_MiB, Bytes stripe = 8_KiB) {
    std::vector<TierRef> refs;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      arenas.push_back(std::make_unique<Arena>(make_arena("storage", capacity)));
      hosts.push_back(std::make_unique<HostTier>(*arenas.back()));
      tiers.push_back(std::make_unique<DeferredTier<HostTier>>(*hosts.back(), 512));
      refs.emplace_back(*tiers.back());
    }
    tier = std::make_unique<StripedTier>(refs, StripedTierOptions{.stripe = stripe, .weights = weights});
  }

  std::vector<std::unique_ptr<Arena>> arenas;
  std::vector<std::unique_ptr<HostTier>> hosts;
  std::vector<std::unique_ptr<DeferredTier<HostTier>>> tiers;
  std::unique_ptr<StripedTier> tier;
  AlignedBuffer buffer{1 << 20};
};

TEST_CASE("a transfer is one for each run of stripes, in proportion to the weights") {
  Rig rig{{2, 1}};
  const Extent extent = rig.tier->place(12 * 24 * 1024);
  rig.tier->write(extent, 0, rig.buffer.data(), extent.bytes).wait();
  const auto first = rig.tiers[0]->transfers();
  const auto second = rig.tiers[1]->transfers();
  CHECK(first.size() == 12);
  CHECK(second.size() == 12);
  CHECK(std::ranges::all_of(first, [](const auto& transfer) { return transfer.bytes == 16 * 1024; }));
  CHECK(std::ranges::all_of(second, [](const auto& transfer) { return transfer.bytes == 8 * 1024; }));
  rig.tier->read(extent, 20 * 1024, rig.buffer.data(), 512).wait();
  CHECK(rig.tiers[0]->transfers().empty());
  CHECK(rig.tiers[1]->transfers().size() == 1);

  Rig alone{{5}};
  const Extent whole = alone.tier->place(100 * 1024);
  alone.tier->write(whole, 0, alone.buffer.data(), whole.bytes).wait();
  CHECK(alone.tiers[0]->transfers().size() == 1);
}

TEST_CASE("small extents are spread") {
  Rig rig{{1, 1}, 1_MiB, 4_KiB};
  for (int i = 0; i < 10; ++i) rig.tier->place(page);
  CHECK(rig.hosts[0]->counters().used == 20_KiB);
  CHECK(rig.hosts[1]->counters().used == 20_KiB);
}

TEST_CASE("a completion ends with its last part, and carries the first error") {
  Rig rig{{1, 1, 1}};
  const Extent extent = rig.tier->place(24 * 1024);
  for (const auto& tier : rig.tiers) tier->hold();
  rig.tiers[0]->inject([](const auto&) { return true; });
  const Completion completion = rig.tier->read(extent, 0, rig.buffer.data(), extent.bytes);
  for (const std::size_t i : {2U, 0U, 1U}) {
    CHECK(!completion.done());
    rig.tiers[i]->release();
  }
  REQUIRE(completion.done());
  CHECK_THROWS_AS(completion.wait(), IoError);
}

/// Refuses to place or to read when it is told to.
struct Stubborn : AlignedTier<DeferredTier<HostTier>> {
  using AlignedTier::AlignedTier;
  Extent place(std::size_t bytes) {
    if (refuses) throw_budget_error("an extent", zerospan::Bytes{bytes}, zerospan::Bytes{0}, "do not");
    return AlignedTier::place(bytes);
  }
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    if (refuses) throw_configuration_error("not now");
    return AlignedTier::read(extent, offset, data, bytes);
  }
  bool refuses = false;
};

TEST_CASE("a part that cannot start fails the completion, and the others are waited for") {
  Arena arenas[2]{make_arena("one", 64_KiB), make_arena("other", 64_KiB)};
  HostTier first{arenas[0]};
  HostTier second{arenas[1]};
  DeferredTier deferred{first};
  DeferredTier other{second};  // as little addressable
  Stubborn stubborn{other, 512};
  StripedTier tier{{deferred, stubborn}, {.stripe = 4_KiB}};
  const Extent extent = tier.place(2 * page);
  const AlignedBuffer buffer{2 * page};
  deferred.hold();
  stubborn.refuses = true;
  const Completion completion = tier.read(extent, 0, buffer.data(), 2 * page);
  CHECK(!completion.done());
  deferred.release();
  REQUIRE(completion.done());
  CHECK_THROWS_WITH_AS(completion.wait(), "not now", ConfigurationError);
}

TEST_CASE("whoever refuses, nothing is lost") {
  Rig rig{{1, 1}, 64_KiB};
  const Allocation other = rig.arenas[1]->allocate(32_KiB, "something else");
  const auto is_as_before = [&](Bytes first, Bytes second) {
    CHECK_NOTHROW(rig.hosts[0]->reserve(first, "all that is left"));
    CHECK_THROWS_AS(rig.hosts[0]->reserve(Bytes{1}, "more"), BudgetError);
    rig.hosts[0]->cancel(first);
    CHECK_NOTHROW(rig.hosts[1]->reserve(second, "all that is left"));
    CHECK_THROWS_AS(rig.hosts[1]->reserve(Bytes{1}, "more"), BudgetError);
    rig.hosts[1]->cancel(second);
  };
  is_as_before(64_KiB, 32_KiB);
  CHECK_THROWS_AS(rig.tier->reserve(80_KiB, "too much for the second"), BudgetError);
  CHECK_THROWS_AS(rig.tier->place((80_KiB).count), BudgetError);
  is_as_before(64_KiB, 32_KiB);

  rig.tier->reserve(32_KiB, "something");
  is_as_before(48_KiB, 16_KiB);
  CHECK_THROWS_AS(rig.tier->place((80_KiB).count), BudgetError);
  is_as_before(48_KiB, 16_KiB);
  const Extent extent = rig.tier->place((24_KiB).count);
  is_as_before(48_KiB, 16_KiB);
  CHECK(rig.tier->counters().used == 24_KiB);
  rig.tier->cancel(8_KiB);
  is_as_before(48_KiB, 24_KiB);
  rig.tier->remove(extent);
  is_as_before(64_KiB, 32_KiB);
  CHECK(rig.tier->counters().used == 0_KiB);
  CHECK(rig.tier->counters().peak == 24_KiB);
}

TEST_CASE("a tier that refuses to place what was reserved undoes the others' parts") {
  Arena arenas[2]{make_arena("one", 64_KiB), make_arena("other", 64_KiB)};
  HostTier first{arenas[0]};
  HostTier second{arenas[1]};
  DeferredTier plain{first};
  DeferredTier other{second};
  Stubborn stubborn{other, 512};
  StripedTier tier{{plain, stubborn}, {.stripe = 4_KiB}};
  tier.reserve(64_KiB, "something");
  stubborn.refuses = true;
  CHECK_THROWS_AS(tier.place((16_KiB).count), BudgetError);
  CHECK(tier.counters().used == 0_KiB);
  CHECK(tier.counters().peak == 0_KiB);
  CHECK(arenas[0].used() == 0_KiB);
  CHECK_THROWS_AS(first.reserve(Bytes{(32_KiB).count + 1}, "what is set aside"), BudgetError);
  CHECK_THROWS_AS(second.reserve(Bytes{(32_KiB).count + 1}, "what is set aside"), BudgetError);
  stubborn.refuses = false;
  CHECK(tier.place((64_KiB).count).offset == 0);
  tier.reserve(64_KiB, "the rest");
}

TEST_CASE("accounts stay exact over random use") {
  Rig rig{{3, 1, 2}, 1_MiB, 4_KiB};
  std::mt19937_64 random{5};
  std::vector<Extent> extents;
  std::size_t outstanding = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::size_t bytes = 1 + random() % 40000;
    const auto choice = random() % 4;
    try {
      if (choice == 0) {
        rig.tier->reserve(Bytes{bytes}, "something");
        outstanding += bytes;
      } else if (choice == 1) {
        rig.tier->cancel(Bytes{bytes});
        outstanding -= std::min(outstanding, bytes);
      } else if (choice == 2) {
        extents.push_back(rig.tier->place(bytes));
        outstanding -= std::min(outstanding, bytes);
      } else if (!extents.empty()) {
        std::swap(extents[random() % extents.size()], extents.back());
        rig.tier->remove(extents.back());
        extents.pop_back();
      }
    } catch (const BudgetError&) {
    }
    std::size_t used = 0;
    for (const Extent& extent : extents) used += extent.bytes;
    std::size_t below = 0;
    for (const auto& tier : rig.tiers) below += tier->counters().used.count;
    REQUIRE(rig.tier->counters().used.count == used);
    REQUIRE(below == used);
  }
  rig.tier->cancel(Bytes{outstanding});
  for (const Extent& extent : extents) rig.tier->remove(extent);
  for (const auto& host : rig.hosts) CHECK_NOTHROW(host->reserve(1_MiB, "everything"));
}

/// What transfers take in virtual time.
struct VirtualClock {
  std::chrono::steady_clock::time_point time{};
};

/// A tier whose transfers end at once, when a clock has gone on by what they take.
struct Paced : AlignedTier<DeferredTier<HostTier>> {
  Paced(DeferredTier<HostTier>& inner, VirtualClock& clock_of_all, std::chrono::nanoseconds for_a_page)
      : AlignedTier{inner, 512}, clock{clock_of_all}, page_time{for_a_page} {}

  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    clock.time += page_time * (bytes / page);
    return AlignedTier::read(extent, offset, data, bytes);
  }
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    clock.time += page_time * (bytes / page);
    return AlignedTier::write(extent, offset, data, bytes);
  }

  VirtualClock& clock;
  std::chrono::nanoseconds page_time;
};

/// Two tiers, of which the second takes longer.
struct PacedRig {
  explicit PacedRig(std::chrono::nanoseconds for_a_page) : second{deferred[1], clock, for_a_page} {}

  BandwidthProbe probe(Bytes bytes = 64_KiB) {
    return {.bytes = bytes, .transfer = 8_KiB, .under_way = 3, .now = [this] { return clock.time; }};
  }

  VirtualClock clock;
  Arena arenas[2]{make_arena("one", 1_MiB), make_arena("other", 1_MiB)};
  HostTier hosts[2]{HostTier{arenas[0]}, HostTier{arenas[1]}};
  DeferredTier<HostTier> deferred[2]{DeferredTier<HostTier>{hosts[0]}, DeferredTier<HostTier>{hosts[1]}};
  Paced first{deferred[0], clock, std::chrono::nanoseconds{1000}};
  Paced second;
};

TEST_CASE("weights are in proportion to rates, and small") {
  using Weights = std::vector<std::size_t>;
  const auto weights = [](std::vector<double> rates) { return detail::proportional_weights(rates); };
  CHECK(weights({5}) == Weights{1});
  CHECK(weights({3, 3, 3}) == Weights{1, 1, 1});
  CHECK(weights({100, 97}) == Weights{1, 1});
  CHECK(weights({1, 3}) == Weights{1, 3});
  CHECK(weights({2, 3, 6}) == Weights{2, 3, 6});
  CHECK(weights({1e9, 1}) == Weights{16, 1});
}

TEST_CASE("a tier that is three times as fast gets three times the bytes, as its counters show") {
  PacedRig rig{std::chrono::nanoseconds{3000}};
  const std::vector<std::size_t> weights = measured_weights({rig.first, rig.second}, rig.probe());
  CHECK(weights == std::vector<std::size_t>{3, 1});
  for (DeferredTier<HostTier>& tier : rig.deferred) {
    const TierCounters probed = tier.counters();
    CHECK(probed.written == 128_KiB);
    CHECK(probed.read == 64_KiB);
    CHECK(probed.used == 0_KiB);
    tier.transfers();
  }
  StripedTier tier{{rig.first, rig.second}, {.stripe = 4_KiB, .weights = weights}};
  const Extent extent = tier.place((64_KiB).count);
  CHECK(rig.hosts[0].counters().used == 48_KiB);
  CHECK(rig.hosts[1].counters().used == 16_KiB);
  const AlignedBuffer buffer{extent.bytes};
  const auto before = rig.clock.time;
  tier.write(extent, 0, buffer.data(), extent.bytes).wait();
  CHECK(rig.deferred[0].counters().written == 48_KiB);
  CHECK(rig.deferred[1].counters().written == 16_KiB);
  CHECK(rig.clock.time - before == std::chrono::nanoseconds{2 * 12'000});  // both take as long
}

TEST_CASE("tiers of one speed, and those whose time no clock tells, are dealt evenly") {
  for (const int nanoseconds : {1000, 1030, 0}) {
    CAPTURE(nanoseconds);
    PacedRig rig{std::chrono::nanoseconds{nanoseconds}};
    if (nanoseconds == 0) rig.first.page_time = {};
    CHECK(measured_weights({rig.first, rig.second}, rig.probe()) == std::vector<std::size_t>{1, 1});
  }
  CHECK(measured_weights({}).empty());
}

TEST_CASE("a probe that cannot be made leaves nothing behind") {
  PacedRig rig{std::chrono::nanoseconds{1000}};
  const std::vector<TierRef> tiers{rig.first, rig.second};
  const auto refuses = [&](BandwidthProbe probe) {
    CHECK_THROWS_AS(measured_weights(tiers, probe), ConfigurationError);
  };
  refuses({.bytes = Bytes{0}});
  refuses({.bytes = 64_KiB, .transfer = Bytes{0}});
  refuses({.bytes = 64_KiB, .transfer = 48_KiB});
  refuses({.bytes = Bytes{1000}, .transfer = Bytes{100}});
  refuses({.bytes = 64_KiB, .transfer = 4_KiB, .under_way = 0});
  CHECK_THROWS_AS(measured_weights(tiers, rig.probe(2_MiB)), BudgetError);
  rig.deferred[1].inject([count = 0](const auto&) mutable { return ++count == 3; });
  CHECK_THROWS_AS(measured_weights(tiers, rig.probe()), IoError);
  CHECK(rig.deferred[1].injected() == 1);
  for (HostTier& host : rig.hosts) {
    CHECK(host.counters().used == 0_KiB);
    CHECK_NOTHROW(host.reserve(1_MiB, "everything"));
  }
}

}  // namespace
