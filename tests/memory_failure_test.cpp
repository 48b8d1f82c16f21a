// What becomes of tiers where memory cannot be had: every allocation in turn fails, and nothing is lost or kept.
#include <doctest/doctest.h>

#include <cstddef>
#include <new>

#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>

#include "support/process_limits.hpp"
#include "support/replaced_heap.hpp"
#include "support/tier_conformance.hpp"

#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/tier/checked_tier.hpp>
#endif

namespace {

/// How many allocations of this thread succeed before one fails; none does where it is negative.
thread_local int allocations_left = -1;

}  // namespace

void zerospan_test::before_allocation() {
  if (allocations_left >= 0 && allocations_left-- == 0) throw std::bad_alloc{};
}

namespace {

using namespace zerospan::literals;
using zerospan::BudgetError;
using zerospan::Extent;
using zerospan_test::HostRig;
using zerospan_test::page;

using NvmeRig = zerospan_test::NvmeRig<zerospan::ThreadedIoEngine>;

/// A cache of one line.
struct SmallCachedRig {
  HostRig host;
  zerospan::Arena memory = zerospan_test::make_arena("cache", 4_KiB);
  zerospan::CachedTier tier{host.tier, memory, {.bytes = 4_KiB, .line = 4_KiB}};
};

struct CachedRig {
  HostRig host;
  zerospan::Arena memory = zerospan_test::make_arena("cache", 64_KiB);
  zerospan::CachedTier tier{host.tier, memory, {.bytes = 64_KiB, .line = 4_KiB}};
};

struct StripedRig {
  NvmeRig first;
  NvmeRig second;
  zerospan::StripedTier tier{{first.tier, second.tier}, {.stripe = 4_KiB}};
};

struct ThrottledRig {
  HostRig host;
  zerospan::ThrottledTier tier{host.tier};
};

#if defined(ZEROSPAN_HAS_XXHASH)
struct CheckedRig {
  NvmeRig nvme;
  zerospan::CheckedTier tier{nvme.tier};
};
#else
using CheckedRig = NvmeRig;
#endif

/// Repeats `f` with one more allocation that succeeds, until it does not throw std::bad_alloc. @return how often it
/// did.
template <class F, class Check>
int fail_in_turn(F f, Check check) {
  for (int succeeding = 0;; ++succeeding) {
    bool has_failed = false;
    allocations_left = succeeding;
    try {
      f();
    } catch (const std::bad_alloc&) {
      has_failed = true;
    }
    allocations_left = -1;
    if (!has_failed) return succeeding;
    check();
  }
}

TEST_CASE_TEMPLATE("an extent that cannot be placed for lack of memory takes nothing", Rig, zerospan_test::DeviceRig,
                   HostRig, NvmeRig, StripedRig, CachedRig, CheckedRig, ThrottledRig) {
  Rig rig;
  const Extent first = rig.tier.place(3 * page);
  rig.tier.reserve(zerospan::Bytes{5 * page}, "a test");
  const auto used = rig.tier.counters().used;
  Extent second{};
  const int failures =
      fail_in_turn([&] { second = rig.tier.place(5 * page); }, [&] { REQUIRE(rig.tier.counters().used == used); });
  CHECK(failures > 0);
  CHECK(rig.tier.counters().used.count == used.count + 5 * page);

  const zerospan_test::AlignedBuffer written{5 * page};
  const zerospan_test::AlignedBuffer read{5 * page};
  written.fill(1);
  rig.tier.write(second, 0, written.data(), 5 * page).wait();
  rig.tier.read(second, 0, read.data(), 5 * page).wait();
  CHECK((read == written));
  rig.tier.remove(first);
  rig.tier.remove(second);
  CHECK(rig.tier.counters().used == 0_KiB);
}

TEST_CASE_TEMPLATE("a tier that cannot be made for lack of memory keeps nothing", Rig, NvmeRig, StripedRig, CachedRig,
                   CheckedRig, ThrottledRig) {
  const std::size_t threads = zerospan_test::threads_in_use();
  const std::size_t descriptors = zerospan_test::open_descriptors();
  const int failures = fail_in_turn(
      [] {
        const Rig rig;
        allocations_left = -1;  // its end is no part of the test
      },
      [&] {
        REQUIRE(zerospan_test::comes_to_threads(threads));
        REQUIRE(zerospan_test::open_descriptors() == descriptors);
      });
  CHECK(failures > 0);
}

TEST_CASE("a transfer of a cache that cannot begin for lack of memory has changed nothing") {
  SmallCachedRig rig;
  const Extent first = rig.tier.place(page);
  const Extent second = rig.tier.place(page);
  const zerospan_test::AlignedBuffer written{page};
  const zerospan_test::AlignedBuffer read{page};
  written.fill(1);
  rig.tier.read(first, 0, read.data(), page).wait();
  CHECK(fail_in_turn([&] { rig.tier.write(first, 0, written.data(), page).wait(); }, [] {}) > 0);

  // The read of `second` takes the place.
  const int failures = fail_in_turn([&] { rig.tier.read(second, 0, read.data(), page).wait(); },
                                    [&] { REQUIRE(rig.tier.cache_counters().evictions == 0_KiB); });
  CHECK(failures > 0);
  CHECK(rig.tier.cache_counters().evictions == 4_KiB);
  const auto misses = rig.tier.cache_counters().misses;
  rig.tier.read(second, 0, read.data(), page).wait();
  CHECK(rig.tier.cache_counters().misses == misses);
  rig.tier.read(first, 0, read.data(), page).wait();
  CHECK((read == written));
}

}  // namespace
