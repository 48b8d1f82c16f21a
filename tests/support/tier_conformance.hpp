/// @file
/// The conformance suite of OffloadTier: every tier is put through it, on a rig that makes one of 2 MiB.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/device/arena.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#include "offered.hpp"
#include "scratch.hpp"

namespace zerospan_test {

using namespace zerospan::literals;
using zerospan::Addressable;
using zerospan::Arena;
using zerospan::BudgetError;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::ConfigurationError;
using zerospan::DeviceTier;
using zerospan::Extent;
using zerospan::HostTier;
using zerospan::NvmeTier;
using zerospan::TierRef;

inline constexpr std::size_t page = 4096;
inline constexpr Bytes capacity = 2_MiB;

inline Arena make_arena(std::string name, Bytes bytes) {
  const auto buffer = std::make_shared<AlignedBuffer>(bytes.count);
  return Arena{std::move(name), std::shared_ptr<std::byte>{buffer, buffer->data()}, bytes};
}

/// Whether a tier's counters of transfers tell what its callers transferred.
enum class Transfers : std::uint8_t { counted, not_counted, counted_elsewhere };

struct DeviceRig {
  static constexpr Transfers transfers = Transfers::not_counted;
  Arena arena = make_arena("device memory", capacity);
  DeviceTier tier{arena};
};

struct HostRig {
  static constexpr Transfers transfers = Transfers::not_counted;
  Arena arena = make_arena("host memory", capacity);
  HostTier tier{arena};
};

template <class Engine>
struct NvmeRig {
  static bool available()
    requires requires { Engine::available(); }
  {
    return Engine::available();
  }
  static constexpr Transfers transfers = Transfers::counted;
  ScratchDirectory directory;
  Engine engine;
  NvmeTier<Engine> tier{engine, {.directory = directory.path(), .block = 8_KiB, .capacity = capacity}};
};

template <class Tier>
bool is_memory(const Tier& tier) {
  return tier.addressable() != Addressable::nowhere;
}

/// The name in errors of reservations: that of the tier, or of the one it passes them on to.
template <class Rig>
std::string_view refuser(const Rig& rig) {
  if constexpr (requires { rig.refuser(); }) return rig.refuser();
  return rig.tier.name();
}

/// Extents that were placed, and what they should hold.
struct Placed {
  Extent extent;
  std::vector<std::byte> content;
};

inline bool overlap(const Extent& a, const Extent& b) {
  return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

template <class Rig>
class RandomUse {
 public:
  explicit RandomUse(Rig& rig) : tier_{rig.tier} {}

  void run(int operations) {
    for (int i = 0; i < operations; ++i) {
      const auto choice = random_() % 8;
      if (choice < 3) {
        place();
      } else if (choice == 3) {
        remove();
      } else if (!placed_.empty()) {
        choice < 6 ? write() : read();
      }
      check_counters();
    }
    while (!placed_.empty()) remove();
    check_counters();
  }

 private:
  void place() {
    const std::size_t bytes = 1 + random_() % 60000;
    if (used_ + 2 * bytes + 200000 > capacity.count) return;
    const Extent extent = tier_.place(bytes);
    REQUIRE(extent.bytes >= bytes);
    REQUIRE((is_memory(tier_) ? extent.bytes == bytes : extent.bytes - bytes < page));
    for (const Placed& other : placed_) REQUIRE(!overlap(extent, other.extent));
    used_ += extent.bytes;
    peak_ = std::max(peak_, used_);
    const AlignedBuffer zeros{extent.bytes};
    tier_.write(extent, 0, zeros.data(), extent.bytes).wait();
    written_ += extent.bytes;
    placed_.push_back({extent, std::vector<std::byte>(extent.bytes)});
  }

  void remove() {
    if (placed_.empty()) return;
    const std::size_t i = random_() % placed_.size();
    tier_.remove(placed_[i].extent);
    used_ -= placed_[i].extent.bytes;
    placed_.erase(placed_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  /// Writes parts of up to four extents at once.
  void write() {
    std::vector<AlignedBuffer> sources;
    std::vector<Completion> completions;
    for (std::size_t i = random_() % placed_.size(), n = 0; i < placed_.size() && n < 4; ++i, ++n) {
      const auto [offset, bytes] = part_of(placed_[i].extent);
      sources.emplace_back(bytes).fill(random_());
      completions.push_back(tier_.write(placed_[i].extent, offset, sources.back().data(), bytes));
      std::copy_n(sources.back().data(), bytes, placed_[i].content.begin() + static_cast<std::ptrdiff_t>(offset));
      written_ += bytes;
    }
    for (const Completion& completion : completions) completion.wait();
  }

  void read() {
    const Placed& placed = placed_[random_() % placed_.size()];
    const auto [offset, bytes] = part_of(placed.extent);
    const AlignedBuffer target{bytes};
    tier_.read(placed.extent, offset, target.data(), bytes).wait();
    read_ += bytes;
    REQUIRE(std::memcmp(target.data(), placed.content.data() + offset, bytes) == 0);
    if (is_memory(tier_)) {
      REQUIRE(std::memcmp(tier_.view(placed.extent), placed.content.data(), placed.content.size()) == 0);
    } else {
      REQUIRE(tier_.view(placed.extent) == nullptr);
    }
  }

  std::pair<std::size_t, std::size_t> part_of(const Extent& extent) {
    const std::size_t unit = tier_.alignment();
    const std::size_t offset = random_() % (extent.bytes / unit) * unit;
    return {offset, (1 + random_() % ((extent.bytes - offset) / unit)) * unit};
  }

  void check_counters() const {
    const zerospan::TierCounters counters = tier_.counters();
    REQUIRE(counters.used == Bytes{used_});
    REQUIRE(counters.peak == Bytes{peak_});
    if (Rig::transfers == Transfers::counted_elsewhere) return;
    const bool counts = Rig::transfers == Transfers::counted;
    REQUIRE(counters.read == Bytes{counts ? read_ : 0});
    REQUIRE(counters.written == Bytes{counts ? written_ : 0});
  }

  decltype(Rig::tier)& tier_;
  std::mt19937_64 random_{11};
  std::vector<Placed> placed_;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  std::size_t read_ = 0;
  std::size_t written_ = 0;
};

TEST_CASE_TEMPLATE_DEFINE("extents keep what is written, and are counted exactly", Rig, random_use) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  RandomUse<Rig>{rig}.run(400);
}

TEST_CASE_TEMPLATE_DEFINE("what was reserved can be placed", Rig, reservation) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  rig.tier.reserve(100_KiB, "two extents");
  rig.tier.reserve(Bytes{capacity.count - (100_KiB).count}, "the rest");
  CHECK(rig.tier.counters().used == 0_KiB);
  const Extent first = rig.tier.place((60_KiB).count);
  const Extent second = rig.tier.place((40_KiB).count);
  CHECK(rig.tier.counters().used == 100_KiB);
  CHECK(!overlap(first, second));

  bool is_refused = false;
  try {
    rig.tier.reserve(1_KiB, "one too many");
  } catch (const BudgetError& error) {
    is_refused = true;
    CHECK(error.requested() == 1_KiB);
    CHECK(error.available() == 0_KiB);
    CHECK(error.short_by() == 1_KiB);
    const std::string message = error.what();
    CHECK(message.find("one too many") == 0);
    CHECK(message.find(refuser(rig)) != std::string::npos);
    CHECK(message.find("1024 bytes short; raise its") != std::string::npos);
  }
  CHECK(is_refused);

  // Placing consumes a reservation, and what is removed can be reserved again.
  rig.tier.place(capacity.count - (100_KiB).count);
  CHECK_THROWS_AS(rig.tier.place(1), BudgetError);
  rig.tier.remove(first);
  CHECK_THROWS_AS(rig.tier.reserve(61_KiB, "more than was removed"), BudgetError);
  rig.tier.reserve(60_KiB, "as much as was removed");
  CHECK(rig.tier.place((60_KiB).count).offset == first.offset);
  CHECK(rig.tier.counters().used == capacity);
  CHECK(rig.tier.counters().peak == capacity);
}

TEST_CASE_TEMPLATE_DEFINE("requests that can never fit are refused and change nothing", Rig, refusal) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  constexpr std::size_t everything = std::numeric_limits<std::size_t>::max();
  CHECK_THROWS_AS(rig.tier.reserve(Bytes{everything}, "everything"), BudgetError);
  CHECK_THROWS_AS(rig.tier.place(everything), BudgetError);
  CHECK_THROWS_AS(rig.tier.place(capacity.count + 1), BudgetError);
  CHECK(rig.tier.counters().peak == 0_KiB);
  rig.tier.reserve(capacity, "all there is");
  CHECK(rig.tier.place(capacity.count).bytes == capacity.count);
}

TEST_CASE_TEMPLATE_DEFINE("space is dealt out first fit", Rig, first_fit) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  std::vector<Extent> extents;
  for (const std::size_t pages : {2U, 3U, 4U, 5U}) extents.push_back(rig.tier.place(pages * page));
  rig.tier.remove(extents[1]);
  rig.tier.remove(extents[2]);
  CHECK(rig.tier.place(6 * page).offset == extents[1].offset);
  CHECK(rig.tier.place(page).offset == extents[1].offset + 6 * page);
  CHECK(rig.tier.place(page).offset == extents[3].offset + 5 * page);
}

TEST_CASE_TEMPLATE_DEFINE("misuse is refused at once", Rig, misuse) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  const Extent extent = rig.tier.place(2 * page);
  const AlignedBuffer buffer{4 * page};
  CHECK_THROWS_AS(rig.tier.read(extent, 0, buffer.data(), 3 * page), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.write(extent, page, buffer.data(), 2 * page), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.write(extent, 3 * page, buffer.data(), 0), ConfigurationError);
  const volatile std::size_t wrapping = std::numeric_limits<std::size_t>::max() - page + 1;
  CHECK_THROWS_AS(rig.tier.write(extent, page, buffer.data(), wrapping), ConfigurationError);

  Extent larger = extent;
  larger.bytes += page;
  CHECK_THROWS_AS(rig.tier.write(larger, 0, buffer.data(), page), ConfigurationError);
  rig.tier.remove(larger);  // ignored
  CHECK(rig.tier.counters().used.count == 2 * page);
  rig.tier.remove(extent);
  CHECK_THROWS_AS(rig.tier.write(extent, 0, buffer.data(), page), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.read(extent, 0, buffer.data(), page), ConfigurationError);
  rig.tier.remove(extent);  // ignored
  CHECK(rig.tier.counters().used.count == 0);
}

TEST_CASE_TEMPLATE_DEFINE("nothing takes nothing", Rig, nothing) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  rig.tier.reserve(Bytes{0}, "nothing");
  const Extent empty = rig.tier.place(0);
  const Extent first = rig.tier.place(page);
  CHECK(empty.bytes == 0);
  CHECK(rig.tier.view(empty) == nullptr);
  CHECK(rig.tier.read(empty, 0, nullptr, 0).done());
  CHECK(rig.tier.write(first, page, nullptr, 0).done());
  rig.tier.remove(empty);
  CHECK(rig.tier.counters().used.count == page);
  const AlignedBuffer buffer{page};
  CHECK_THROWS_AS(rig.tier.read(empty, 0, buffer.data(), page), ConfigurationError);
}

TEST_CASE_TEMPLATE_DEFINE("a TierRef is the tier", Rig, by_reference) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  const TierRef tier = rig.tier;
  CHECK(tier.name() == rig.tier.name());
  CHECK(tier.alignment() == rig.tier.alignment());
  CHECK(tier.addressable() == rig.tier.addressable());
  CHECK(tier.identity() == &rig.tier);
  tier.reserve(8_KiB, "two pages");
  const Extent extent = tier.place(2 * page);
  const AlignedBuffer written{2 * page};
  const AlignedBuffer read{2 * page};
  written.fill(5);
  tier.write(extent, 0, written.data(), 2 * page).wait();
  tier.read(extent, 0, read.data(), 2 * page).wait();
  CHECK((written == read));
  CHECK(tier.view(extent) == rig.tier.view(extent));
  CHECK(tier.counters().used == 8_KiB);
  tier.remove(extent);
  CHECK(tier.counters().used == 0_KiB);
  CHECK(tier.counters().peak == 8_KiB);
}

TEST_CASE_TEMPLATE_DEFINE("transfers may be started from any thread", Rig, threads) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  constexpr std::size_t count = 4;
  std::vector<Extent> extents;
  for (std::size_t t = 0; t < count; ++t) extents.push_back(rig.tier.place(20 * page));
  std::vector<std::thread> users;
  std::atomic<int> matches = 0;
  for (std::size_t t = 0; t < count; ++t) {
    users.emplace_back([&, t] {
      const AlignedBuffer written{20 * page};
      const AlignedBuffer read{20 * page};
      for (std::uint64_t round = 0; round < 5; ++round) {
        written.fill(round * count + t);
        rig.tier.write(extents[t], 0, written.data(), written.size()).wait();
        rig.tier.read(extents[t], 0, read.data(), read.size()).wait();
        if (written == read) ++matches;
      }
    });
  }
  std::size_t pages = 0;
  while (pages < 20) pages += rig.tier.place(page).bytes / page;  // meanwhile the owner goes on
  for (std::thread& user : users) user.join();
  CHECK(matches == 20);
  CHECK(rig.tier.counters().used.count == 100 * page);
}

}  // namespace zerospan_test

/// Puts the tiers of the given rigs through the whole suite. It stands outside of namespaces.
#define ZEROSPAN_TEST_TIERS(...)                        \
  namespace zerospan_test {                             \
  TEST_CASE_TEMPLATE_INVOKE(random_use, __VA_ARGS__);   \
  TEST_CASE_TEMPLATE_INVOKE(reservation, __VA_ARGS__);  \
  TEST_CASE_TEMPLATE_INVOKE(refusal, __VA_ARGS__);      \
  TEST_CASE_TEMPLATE_INVOKE(first_fit, __VA_ARGS__);    \
  TEST_CASE_TEMPLATE_INVOKE(misuse, __VA_ARGS__);       \
  TEST_CASE_TEMPLATE_INVOKE(nothing, __VA_ARGS__);      \
  TEST_CASE_TEMPLATE_INVOKE(by_reference, __VA_ARGS__); \
  TEST_CASE_TEMPLATE_INVOKE(threads, __VA_ARGS__);      \
  }                                                     \
  static_assert(true)
