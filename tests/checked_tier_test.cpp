#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/checked_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>

#include "support/aligned_tier.hpp"
#include "support/deferred_tier.hpp"
#include "support/faulty_io_engine.hpp"
#include "support/tier_conformance.hpp"

namespace {

using namespace zerospan;
using namespace zerospan::literals;
using zerospan_test::AlignedBuffer;
using zerospan_test::AlignedTier;
using zerospan_test::DeferredTier;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::make_arena;
using zerospan_test::page;
using zerospan_test::ScratchDirectory;
using zerospan_test::Transfers;

using NvmeRig = zerospan_test::NvmeRig<ThreadedIoEngine>;

/// @tparam line Bytes of a line.
template <std::size_t line>
struct CheckedRig {
  static constexpr Transfers transfers = Transfers::counted;
  std::string_view refuser() const { return inner.tier.name(); }
  NvmeRig inner;
  CheckedTier tier{inner.tier, {.line = zerospan::Bytes{line}}};
};

struct CheckedStripesRig {
  static constexpr Transfers transfers = Transfers::counted;
  std::string_view refuser() const { return stripes.name(); }
  ScratchDirectory directories[2];
  ThreadedIoEngine engine;
  NvmeTier<ThreadedIoEngine> first{engine,
                                   {.directory = directories[0].path(), .capacity = zerospan::Bytes{capacity / 2}}};
  NvmeTier<ThreadedIoEngine> second{engine,
                                    {.directory = directories[1].path(), .capacity = zerospan::Bytes{capacity / 2}}};
  StripedTier stripes{{first, second}, {.stripe = 4_KiB}};
  CheckedTier tier{stripes};

  static constexpr std::size_t capacity = zerospan_test::capacity.count;
};

struct CacheOfCheckedRig {
  static constexpr Transfers transfers = Transfers::counted_elsewhere;
  std::string_view refuser() const { return checked.refuser(); }
  CheckedRig<4096> checked;
  Arena memory = make_arena("cache", 64_KiB);
  CachedTier tier{checked.tier, memory, {.bytes = 64_KiB, .line = 8_KiB}};
};

}  // namespace

ZEROSPAN_TEST_TIERS(CheckedRig<512>, CheckedRig<4096>, CheckedStripesRig, CacheOfCheckedRig);

namespace {

static_assert(std::is_constructible_v<CheckedTier, HostTier&>);
static_assert(!std::is_constructible_v<CheckedTier, HostTier>);  // a temporary tier would be gone

TEST_CASE("options that contradict the tier are refused") {
  zerospan_test::HostRig host;
  CHECK_THROWS_WITH_AS(CheckedTier{host.tier}, doctest::Contains("is addressable"), ConfigurationError);
  DeferredTier<HostTier> coarse{host.tier, 8192};
  CHECK_THROWS_WITH_AS(CheckedTier{coarse}, doctest::Contains("lines of 4096 bytes"), ConfigurationError);
  CHECK_THROWS_AS((CheckedTier{coarse, {.line = zerospan::Bytes{0}}}), ConfigurationError);
  CHECK_THROWS_AS((CheckedTier{coarse, {.line = zerospan::Bytes{3 * 8192}}}), ConfigurationError);
  CHECK(CheckedTier{coarse, {.line = 64_KiB}}.alignment() == 65536);
}

TEST_CASE("transfers are whole lines") {
  CheckedRig<4096> rig;
  const Extent extent = rig.tier.place(4 * page);
  const AlignedBuffer buffer{page};
  CHECK_THROWS_AS(rig.tier.write(extent, 512, buffer.data(), page), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.write(extent, 0, buffer.data(), 512), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.read({extent.offset + 512, page}, 0, buffer.data(), page), ConfigurationError);
  CHECK(rig.tier.check_counters().written == 0_KiB);
}

/// A checked disk whose requests the test spoils.
struct FaultyRig {
  static constexpr std::size_t pages = 6;

  explicit FaultyRig(std::size_t line = page)
      : tier{std::in_place, nvme, CheckedTierOptions{.line = zerospan::Bytes{line}}} {
    extent = tier->place(pages * page);
    written.fill(1);
  }

  void write() { finish(tier->write(extent, 0, written.data(), written.size())); }
  void read(std::size_t offset, std::size_t bytes) { finish(tier->read(extent, offset, found.data(), bytes)); }
  void read() { read(0, found.size()); }

  /// The thread that ended a transfer has let go of its error then.
  void finish(const Completion& completion) {
    io.wait_idle();
    completion.wait();
  }

  /// The error of a read, which must be there.
  IntegrityError mismatch() {
    std::optional<IntegrityError> caught;
    try {
      read();
    } catch (const IntegrityError& error) {
      caught = error;
    }
    REQUIRE(caught.has_value());
    return *caught;
  }

  ScratchDirectory directory;
  ThreadedIoEngine threads;
  FaultyIoEngine<ThreadedIoEngine> io{threads};
  NvmeTier<FaultyIoEngine<ThreadedIoEngine>> nvme{
      io, {.directory = directory.path(), .block = 8_KiB, .drain_timeout = std::chrono::milliseconds{200}}};
  std::optional<CheckedTier> tier;
  Extent extent;
  AlignedBuffer written{pages * page};
  AlignedBuffer found{pages * page};
};

TEST_CASE("a bit that is flipped is found and named, on the disk and on the way, whichever it is") {
  std::mt19937_64 random{3};
  std::size_t flips = 0;
  for (const std::size_t line : {std::size_t{512}, page}) {
    for (const bool is_stored : {false, true}) {
      FaultyRig rig{line};
      for (int i = 0; i < 500; ++i) {
        const std::uint64_t request = random() % 3;  // of 8 KiB each
        const std::uint64_t bit = random() % (8192 * 8);
        CAPTURE(bit);
        if (!is_stored) rig.write();
        rig.io.inject({{.kind = FaultKind::flip, .request = request, .bit = bit}});
        if (is_stored) rig.write();
        const IntegrityError error = rig.mismatch();
        CHECK(rig.io.injected() == 1);
        CHECK(error.offset() == rig.extent.offset + (request * 8192 + bit / 8) / line * line);
        CHECK(error.bytes() == line);
        CHECK(error.expected() != error.found());
        CHECK(error.tier() == rig.tier->name());
        const std::string text = error.what();
        CHECK(text.find(std::to_string(line) + " bytes at offset " + std::to_string(error.offset()) +
                        " of the checked "
                        "NVMe tier") == 0);
        ++flips;
        rig.io.inject({});
        if (is_stored) {
          CHECK_THROWS_AS(rig.read(), IntegrityError);  // it remains, until it is written again
          rig.write();
        }
        CHECK_NOTHROW(rig.read());
        CHECK((rig.found == rig.written));
      }
    }
  }
  MESSAGE("found all of ", flips, " flipped bits");
}

TEST_CASE("every bit of a line is covered") {
  zerospan_test::HostRig host;
  DeferredTier<HostTier> storage{host.tier};
  CheckedTier tier{storage, {.line = zerospan::Bytes{512}}};
  const Extent extent = tier.place(512);
  const AlignedBuffer data{512};
  data.fill(5);
  tier.write(extent, 0, data.data(), 512).wait();
  std::byte* const stored = host.tier.view(extent);
  std::size_t found = 0;
  for (std::size_t bit = 0; bit < 512 * 8; ++bit) {
    stored[bit / 8] ^= std::byte{1} << bit % 8;
    try {
      tier.read(extent, 0, data.data(), 512).wait();
    } catch (const IntegrityError&) {
      ++found;
    }
    stored[bit / 8] ^= std::byte{1} << bit % 8;
  }
  CHECK(found == 512 * 8);
  CHECK_NOTHROW(tier.read(extent, 0, data.data(), 512).wait());
}

TEST_CASE("a write that the disk loses in part is found") {
  for (const std::uint64_t request : {0U, 1U, 2U}) {
    FaultyRig rig;
    rig.write();
    rig.written.fill(2);
    rig.io.inject({{.kind = FaultKind::torn, .request = request}});
    rig.write();
    CHECK(rig.mismatch().offset() == rig.extent.offset + request * 8192 + page);
  }
}

TEST_CASE("after a write that failed its lines are what was to be written, or refused") {
  FaultyRig rig;
  rig.write();
  const AlignedBuffer before = [&] {
    AlignedBuffer copy{rig.written.size()};
    std::memcpy(copy.data(), rig.written.data(), copy.size());
    return copy;
  }();
  rig.written.fill(2);
  rig.io.inject({{.kind = FaultKind::error, .request = 1, .error_number = ENOSPC}});
  CHECK_THROWS_AS(rig.write(), IoError);
  CHECK(rig.mismatch().offset() == rig.extent.offset + 2 * page);
  CHECK_NOTHROW(rig.read(0, 2 * page));
  CHECK(std::memcmp(rig.found.data(), rig.written.data(), 2 * page) == 0);
  rig.tier->write(rig.extent, 0, before.data(), before.size()).wait();
  CHECK_NOTHROW(rig.read());
  CHECK((rig.found == before));
}

TEST_CASE("an error of the disk is the read's, and nothing is checked") {
  FaultyRig rig;
  rig.write();
  const CheckCounters before = rig.tier->check_counters();
  rig.io.inject({{.kind = FaultKind::error}});
  CHECK_THROWS_AS(rig.read(), IoError);
  CHECK(rig.tier->check_counters().verified == before.verified);
}

TEST_CASE("short and interrupted transfers are checked as a whole") {
  for (const FaultKind kind : {FaultKind::short_transfer, FaultKind::ragged}) {
    FaultyRig rig;
    rig.io.inject({{.kind = kind, .every = 2}});
    rig.write();
    rig.read();
    CHECK(rig.io.injected() > 0);
    CHECK((rig.found == rig.written));
  }
}

TEST_CASE("parts of what was written are overwritten and read: each line is checked by itself") {
  std::mt19937_64 random{9};
  FaultyRig rig{512};
  constexpr std::size_t lines = FaultyRig::pages * page / 512;
  std::vector<std::byte> content(FaultyRig::pages * page);
  std::vector<bool> is_known(lines, false);
  std::size_t written = 0;
  std::size_t verified = 0;
  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::size_t first = random() % lines;
    const std::size_t count = 1 + random() % (lines - first);
    if (random() % 3 != 0) {
      rig.written.fill(i);
      rig.tier->write(rig.extent, first * 512, rig.written.data(), count * 512).wait();
      std::copy_n(rig.written.data(), count * 512, content.begin() + static_cast<std::ptrdiff_t>(first * 512));
      std::fill_n(is_known.begin() + static_cast<std::ptrdiff_t>(first), count, true);
      written += count * 512;
    } else {
      rig.read(first * 512, count * 512);
      for (std::size_t line = first; line < first + count; ++line) {
        if (!is_known[line]) continue;
        verified += 512;
        CHECK(std::memcmp(rig.found.data() + (line - first) * 512, content.data() + line * 512, 512) == 0);
      }
    }
    const CheckCounters counters = rig.tier->check_counters();
    REQUIRE(counters.written.count == written);
    REQUIRE(counters.verified.count == verified);
    REQUIRE(counters.table.count == lines * sizeof(std::uint64_t));
  }
}

TEST_CASE("what was never written passes, and an extent that is placed again is a new one") {
  FaultyRig rig;
  CHECK_NOTHROW(rig.read());
  rig.write();
  rig.tier->remove(rig.extent);
  CHECK(rig.tier->check_counters().table == 0_KiB);
  const Extent again = rig.tier->place(rig.extent.bytes);
  CHECK(again.offset == rig.extent.offset);
  rig.io.inject({{.kind = FaultKind::flip}});
  CHECK_NOTHROW(rig.read());
  CHECK(rig.tier->check_counters().verified == 0_KiB);
}

TEST_CASE("a part of an extent is as good as the whole") {
  FaultyRig rig;
  rig.write();
  const Extent part{rig.extent.offset + 2 * page, 3 * page};
  rig.tier->read(part, page, rig.found.data(), 2 * page).wait();
  CHECK(std::memcmp(rig.found.data(), rig.written.data() + 3 * page, 2 * page) == 0);
  rig.io.inject({{.kind = FaultKind::flip, .bit = 9 * page}});
  const Completion completion = rig.tier->read(part, page, rig.found.data(), 2 * page);
  CHECK_THROWS_WITH_AS(rig.finish(completion),
                       doctest::Contains(("at offset " + std::to_string(part.offset + 2 * page) + " of").c_str()),
                       IntegrityError);
}

TEST_CASE("extents are rounded up to lines where the tier below does not round") {
  zerospan_test::HostRig host;
  DeferredTier<HostTier> storage{host.tier};
  CheckedTier tier{storage, {.line = zerospan::Bytes{512}}};
  tier.reserve(zerospan::Bytes{1000}, "bytes");
  const Extent extent = tier.place(1000);
  CHECK(extent.bytes == 1024);
  CHECK(host.tier.counters().used.count == 1024);
  CHECK(tier.check_counters().table.count == 2 * sizeof(std::uint64_t));
  tier.remove(extent);
  CHECK(host.tier.counters().used.count == 0);
}

TEST_CASE("a read that ends after its tier touches nothing") {
  for (const bool delivers : {false, true}) {
    FaultyRig rig;
    rig.write();
    auto data = std::make_unique<AlignedBuffer>(rig.extent.bytes);
    rig.tier.emplace(rig.nvme, CheckedTierOptions{.drain_timeout = std::chrono::milliseconds{1}});
    const Extent extent = rig.tier->place(page);
    rig.tier->write(extent, 0, rig.written.data(), page).wait();
    rig.io.inject({{.kind = FaultKind::lost}});
    const Completion completion = rig.tier->read(extent, 0, data->data(), page);
    CHECK(completion.label().find("read of 4096 bytes at offset 0 of an extent") == 0);
    rig.tier.reset();
    data.reset();
    CHECK_FALSE(completion.done());
    if (delivers) {
      rig.io.deliver_lost();
    } else {
      rig.io.drop_lost();
    }
    CHECK_THROWS_AS(completion.wait(), Error);
  }
}

TEST_CASE(
    "transfers of all sizes from many threads, on a disk that flips bits: every flip is found, and nothing else") {
  constexpr std::size_t users = 4;
  constexpr std::size_t pages = 16;
  constexpr std::uint64_t rounds = 60;
  ScratchDirectory directory;
  ThreadedIoEngine threads;
  FaultyIoEngine<ThreadedIoEngine> io{threads};
  NvmeTier nvme{io, {.directory = directory.path(), .block = zerospan::Bytes{pages * page}}};
  CheckedTier tier{nvme};
  const Extent shared = tier.place(users * pages * page);  // each user has a part of it
  io.inject({{.kind = FaultKind::flip, .request = 5, .every = 7, .bit = 12345}});
  std::vector<std::vector<std::exception_ptr>> errors(users);
  std::atomic<std::uint64_t> wrong = 0;
  std::vector<std::thread> running;
  for (std::size_t user = 0; user < users; ++user) {
    running.emplace_back([&, user] {
      std::mt19937_64 random{user};
      const AlignedBuffer written{pages * page};
      const AlignedBuffer read{pages * page};
      for (std::uint64_t round = 0; round < rounds; ++round) {
        const std::size_t count = 1 + random() % pages;
        const std::size_t offset = (user * pages + random() % (pages - count + 1)) * page;
        written.fill(round * users + user);
        tier.write(shared, offset, written.data(), count * page).wait();
        const Completion completion = tier.read(shared, offset, read.data(), count * page);
        completion.wait_until(std::chrono::steady_clock::now() + std::chrono::minutes{1});
        if (const auto error = completion.error()) {
          errors[user].push_back(error);
        } else if (std::memcmp(written.data(), read.data(), count * page) != 0) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& user : running) user.join();
  io.wait_idle();
  std::size_t found = 0;
  for (const auto& of_user : errors) {
    found += of_user.size();
    for (const auto& error : of_user) CHECK_THROWS_AS(std::rethrow_exception(error), IntegrityError);
  }
  CHECK(wrong == 0);
  CHECK(io.requests() == 2 * users * rounds);
  CHECK(found > 0);
  CHECK(found <= io.injected());
  CHECK(tier.check_counters().written == nvme.counters().written);
}

}  // namespace
