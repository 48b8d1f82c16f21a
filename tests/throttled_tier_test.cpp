#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <limits>
#include <optional>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>

#include "support/deferred_tier.hpp"
#include "support/tier_conformance.hpp"

namespace {

using namespace std::chrono_literals;
using namespace zerospan;
using namespace zerospan::literals;
using Clock = std::chrono::steady_clock;
using zerospan_test::AlignedBuffer;
using zerospan_test::DeferredTier;
using zerospan_test::make_arena;
using zerospan_test::page;
using zerospan_test::Transfers;

template <class Rig>
struct ThrottledRig {
  static constexpr Transfers transfers = Rig::transfers;
  std::string_view refuser() const { return inner.tier.name(); }
  Rig inner;
  ThrottledTier tier{inner.tier, {.bytes_per_second = 4e9, .latency = 10us}};
};

}  // namespace

ZEROSPAN_TEST_TIERS(ThrottledRig<zerospan_test::HostRig>, ThrottledRig<zerospan_test::NvmeRig<ThreadedIoEngine>>);

namespace {

TEST_CASE("transfers queue on a link, and latency does not occupy it") {
  const detail::LinkClock::Time start{1h};
  detail::LinkClock link{1e6, 5ms};  // a byte a microsecond
  CHECK(link.transfer(start, 1000) == start + 6ms);
  CHECK(link.free() == start + 1ms);
  CHECK(link.transfer(start, 2000) == start + 8ms);
  CHECK(link.transfer(start + 2ms, 1000) == start + 9ms);
  CHECK(link.transfer(start + 10ms, 1000) == start + 16ms);  // it was idle
  CHECK(link.transfer(start, 0) == start + 16ms);
}

TEST_CASE("a link without limits costs nothing, one without bandwidth does not overflow") {
  const detail::LinkClock::Time start{1h};
  detail::LinkClock fast{std::numeric_limits<double>::infinity(), 0ns};
  CHECK(fast.transfer(start, std::size_t{1} << 60) == start);
  detail::LinkClock slow{1e-300, 0ns};
  CHECK(slow.transfer(start, 1) > start + 24h);
  CHECK(slow.transfer(start, 1) > start + 48h);
}

static_assert(std::is_constructible_v<ThrottledTier, HostTier&>);
static_assert(!std::is_constructible_v<ThrottledTier, HostTier>);  // a temporary tier would be gone

TEST_CASE("links without bandwidth or with a negative latency are refused") {
  zerospan_test::HostRig host;
  CHECK_THROWS_AS((ThrottledTier{host.tier, {.bytes_per_second = 0}}), ConfigurationError);
  CHECK_THROWS_AS((ThrottledTier{host.tier, {.bytes_per_second = std::numeric_limits<double>::quiet_NaN()}}),
                  ConfigurationError);
  CHECK_THROWS_AS((ThrottledTier{host.tier, {.write_bytes_per_second = 0}}), ConfigurationError);
  CHECK_THROWS_AS((ThrottledTier{host.tier, {.latency = -1ns}}), ConfigurationError);
  const ThrottledTier tier{host.tier};
  CHECK(tier.addressable() == Addressable::nowhere);
  CHECK(tier.name() == "link to host memory");
}

TEST_CASE("reads queue behind reads and writes behind writes") {
  zerospan_test::HostRig host;
  ThrottledTier tier{host.tier, {.bytes_per_second = 1e6, .latency = 3ms}};
  const Extent extent = tier.place(4000);
  const AlignedBuffer buffer{4000};
  const auto begin = Clock::now();
  const Completion first = tier.read(extent, 0, buffer.data(), 4000);
  const Completion second = tier.read(extent, 0, buffer.data(), 4000);
  const Completion third = tier.read(extent, 0, buffer.data(), 4000);
  first.wait();
  CHECK(Clock::now() - begin >= 7ms);
  second.wait();
  CHECK(Clock::now() - begin >= 11ms);
  third.wait();
  CHECK(Clock::now() - begin >= 15ms);
  const auto middle = Clock::now();
  tier.write(extent, 0, buffer.data(), 2000).wait();
  tier.write(extent, 0, buffer.data(), 2000).wait();
  CHECK(Clock::now() - middle >= 10ms);
}

TEST_CASE("writes have a speed of their own, where one is given") {
  zerospan_test::HostRig host;
  ThrottledTier tier{host.tier, {.write_bytes_per_second = 1e6}};
  const Extent extent = tier.place(4000);
  const AlignedBuffer buffer{4000};
  const auto begin = Clock::now();
  tier.write(extent, 0, buffer.data(), 4000).wait();
  CHECK(Clock::now() - begin >= 4ms);
  ThrottledTier slow_reads{host.tier, {.bytes_per_second = 1e6, .write_bytes_per_second = 1e300}};
  const auto middle = Clock::now();
  slow_reads.read(extent, 0, buffer.data(), 4000).wait();
  CHECK(Clock::now() - middle >= 4ms);
}

/// A throttled tier over one that the test commands.
struct Rig {
  explicit Rig(ThrottledTierOptions options) : tier{std::in_place, deferred, options} {}
  zerospan_test::HostRig host;
  DeferredTier<HostTier> deferred{host.tier};
  std::optional<ThrottledTier> tier;
  AlignedBuffer buffer{page};
};

TEST_CASE("a transfer ends on the tier's thread, and not before the other tier's") {
  Rig rig{{}};
  const Extent extent = rig.tier->place(page);
  rig.deferred.hold();
  const Completion completion = rig.tier->read(extent, 0, rig.buffer.data(), page);
  std::optional<std::thread::id> ender;
  completion.then([&](const std::exception_ptr&) { ender = std::this_thread::get_id(); });
  CHECK(!completion.done());
  rig.deferred.release();
  rig.tier.reset();
  CHECK(completion.done());
  REQUIRE(ender.has_value());
  CHECK(*ender != std::this_thread::get_id());
}

TEST_CASE("errors of the other tier pass through") {
  Rig rig{{.latency = 1ms}};
  const Extent extent = rig.tier->place(page);
  CHECK_THROWS_AS(rig.tier->read(extent, 0, rig.buffer.data(), 2 * page), ConfigurationError);
  rig.deferred.inject([](const auto&) { return true; });
  CHECK_THROWS_AS(rig.tier->read(extent, 0, rig.buffer.data(), page).wait(), IoError);
  CHECK_THROWS_AS(rig.tier->write(extent, 0, rig.buffer.data(), page).wait(), IoError);
}

TEST_CASE("the destructor waits for transfers") {
  const auto begin = Clock::now();
  std::vector<Completion> completions;
  {
    Rig rig{{.bytes_per_second = 4096e3}};
    const Extent extent = rig.tier->place(page);
    for (int i = 0; i < 5; ++i) completions.push_back(rig.tier->read(extent, 0, rig.buffer.data(), page));
  }
  CHECK(Clock::now() - begin >= 5ms);
  for (const Completion& completion : completions) CHECK(completion.done());
}

TEST_CASE("a transfer that outlives the tier ends with the other tier's") {
  Rig rig{{.latency = 1h, .drain_timeout = 0ms}};
  const Extent extent = rig.tier->place(page);
  rig.deferred.hold();
  const Completion completion = rig.tier->read(extent, 0, rig.buffer.data(), page);
  rig.tier.reset();
  CHECK(!completion.done());
  rig.deferred.release();
  CHECK(completion.done());
  CHECK(!completion.error());
}

}  // namespace
