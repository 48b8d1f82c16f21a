#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/zerospan.hpp>

#include "support/aligned_tier.hpp"
#include "support/faulty_io_engine.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::ActivationCheckpoints;
using zerospan::ActivationCounters;
using zerospan::ActivationOptions;
using zerospan::bfloat16;
using zerospan::BudgetError;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::Completion;
using zerospan::ConfigurationError;
using zerospan::Extent;
using zerospan::IoError;
using zerospan::LeaseError;
using zerospan::OperationKind;
using zerospan::Promise;
using zerospan::Shape;
using zerospan::ThreadedIoEngine;
using zerospan::TierRef;
using zerospan::TimeoutError;
using zerospan_test::Array;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::Memory;
using zerospan_test::Place;

using Floats = Array<float>;
using Halves = Array<bfloat16>;
using FaultyEngine = FaultyIoEngine<ThreadedIoEngine>;

template <class T>
concept Checkpointable = requires(ActivationCheckpoints& c) { c.push<T>(calling_thread, Shape{1}); };
static_assert(Checkpointable<Floats> && Checkpointable<Halves> && !Checkpointable<float> && !Checkpointable<int*>);

constexpr std::array places{Place::device, Place::host, Place::nvme};

/// Of one checkpoint of the tests that count: whole blocks of any disk.
constexpr std::size_t slot = 4096;
constexpr std::size_t slot_floats = slot / sizeof(float);

struct Rig {
  ThreadedIoEngine threads;
  FaultyEngine io{threads};
  Memory<FaultyEngine> memory{io, 1_MiB, 1_MiB};
};

ActivationOptions slots(std::size_t on_tier, std::size_t on_device) {
  return {.bytes = Bytes{on_tier * slot}, .device_bytes = Bytes{on_device * slot}, .staging = 64_KiB};
}

template <class E>
void fill(const Array<E>& array, std::uint32_t seed) {
  std::mt19937 random{seed};
  std::vector<std::uint8_t> bytes(array.size * sizeof(E));
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  std::memcpy(array.data, bytes.data(), bytes.size());
}

template <class E>
bool holds(const Array<E>& array, std::uint32_t seed) {
  std::vector<E> expected(array.size);
  fill(Array<E>{expected.data(), expected.size()}, seed);
  return std::memcmp(array.data, expected.data(), array.size * sizeof(E)) == 0;
}

/// Pushes a checkpoint filled by its seed. @return Where it was.
const float* push(ActivationCheckpoints& checkpoints, std::uint32_t seed, std::size_t floats = slot_floats) {
  auto saved = checkpoints.push<Floats>(calling_thread, {floats});
  const float* const where = saved->data;
  fill(*saved, seed);
  saved.commit();
  return where;
}

bool pop_holds(ActivationCheckpoints& checkpoints, std::uint32_t seed) {
  return holds(*checkpoints.pop<Floats>(calling_thread), seed);
}

/// A forward and a backward pass of `count` checkpoints. @return Where they were when pushed and when popped.
std::vector<const float*> pass(ActivationCheckpoints& checkpoints, std::size_t count,
                               std::size_t floats = slot_floats) {
  std::vector<const float*> where;
  for (std::size_t i = 0; i < count; ++i) where.push_back(push(checkpoints, static_cast<std::uint32_t>(i), floats));
  for (std::size_t i = count; i-- > 0;) {
    const auto x = checkpoints.pop<Floats>(calling_thread);
    where.push_back(x->data);
    REQUIRE(x->size == floats);
    REQUIRE(holds(*x, static_cast<std::uint32_t>(i)));
  }
  return where;
}

TEST_CASE("what is pushed comes back in reverse, bit for bit, from any tier in any budget") {
  zerospan_test::Sample sample{4};
  for (const Place place : places) {
    for (const std::size_t on_device : {1U, 2U, 3U, 7U, 20U}) {
      for (const Bytes staging : {4_KiB, 24_KiB, 256_KiB}) {
        if (!sample.takes()) continue;
        CAPTURE(zerospan_test::to_string(place));
        CAPTURE(on_device);
        Rig rig;
        ActivationCheckpoints checkpoints{
            rig.memory.device,
            rig.memory.tier(place),
            {.bytes = Bytes{12 * 5 * slot}, .device_bytes = Bytes{on_device * 5 * slot}, .staging = staging}};
        for (int round = 0; round < 3; ++round) pass(checkpoints, 12, 5 * slot_floats - 3);
        CHECK(checkpoints.size() == 0);
      }
    }
  }
}

TEST_CASE("a stack that fits is never moved") {
  for (const Place place : {Place::host, Place::nvme}) {
    Rig rig;
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.tier(place), slots(0, 6)};
    for (int round = 0; round < 3; ++round) pass(checkpoints, 6);
    const ActivationCounters counters = checkpoints.counters();
    CHECK(counters.bytes_offloaded == 0);
    CHECK(counters.bytes_fetched == 0);
    CHECK(counters.hits == 18);
    CHECK(counters.misses == 0);
    CHECK(counters.peak_device == Bytes{6 * slot});
    CHECK(counters.peak_tier == Bytes{0});
    CHECK(counters.operations[OperationKind::copy].count == 0);
    CHECK(rig.io.requests() == 0);
  }
}

TEST_CASE("what overflows is moved there and back once, in every pass") {
  for (const Place place : {Place::host, Place::nvme}) {
    Rig rig;
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.tier(place), slots(6, 4)};
    for (std::uint64_t round = 1; round <= 3; ++round) {
      pass(checkpoints, 10);
      const ActivationCounters counters = checkpoints.counters();
      CHECK(counters.bytes_offloaded == round * 6 * slot);
      CHECK(counters.bytes_fetched == round * 6 * slot);
      CHECK(counters.hits == round * 10);
      CHECK(counters.misses == 0);
      CHECK(counters.peak_device == Bytes{4 * slot});
      CHECK(counters.peak_tier == Bytes{6 * slot});
      CHECK(counters.operations[OperationKind::copy].bytes == round * 12 * slot);
    }
    if (place == Place::nvme) {
      CHECK(rig.memory.on_nvme.counters().written == Bytes{18 * slot});
      CHECK(rig.memory.on_nvme.counters().read == Bytes{18 * slot});
    }
  }
}

TEST_CASE("what a lease gives back takes the next one at once") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, slots(6, 1)};
  for (int round = 0; round < 2; ++round) pass(checkpoints, 6);
  CHECK(checkpoints.counters().hits == 12);
  CHECK(checkpoints.counters().bytes_fetched == 10 * slot);
}

TEST_CASE("of unequal checkpoints as few as possible leave") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(9, 10)};
  push(checkpoints, 0, 4 * slot_floats);
  push(checkpoints, 1, 4 * slot_floats);
  push(checkpoints, 2, 2 * slot_floats);
  CHECK(checkpoints.counters().bytes_offloaded == 0);
  push(checkpoints, 3, 3 * slot_floats);  // takes the place of the first
  CHECK(checkpoints.counters().bytes_offloaded == 4 * slot);
  push(checkpoints, 4, 1 * slot_floats);  // the hole beside it
  CHECK(checkpoints.counters().bytes_offloaded == 4 * slot);
  push(checkpoints, 5, 1 * slot_floats);
  CHECK(checkpoints.counters().bytes_offloaded == 8 * slot);
  for (std::uint32_t i = 6; i-- > 0;) CHECK(pop_holds(checkpoints, i));
  CHECK(checkpoints.counters().bytes_fetched == 8 * slot);
  CHECK(checkpoints.counters().misses == 0);
}

TEST_CASE("device memory of the tier itself is used in place") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_device, {.bytes = Bytes{3 * slot}}};
  CHECK(rig.memory.device.memory().used() == Bytes{3 * slot});
  CHECK(rig.memory.device.host_memory().used() == Bytes{0});
  const auto* const begin =
      reinterpret_cast<const float*>(rig.memory.device.memory().allocate(Bytes{1}, "probe").data());
  const std::vector<const float*> where = pass(checkpoints, 3);
  CHECK(where[0] + 3 * slot_floats == begin);
  CHECK(where[5] == where[0]);
  CHECK(checkpoints.counters().operations[OperationKind::copy].count == 0);
  CHECK(checkpoints.counters().bytes_offloaded == 0);
  CHECK(checkpoints.counters().peak_tier == Bytes{3 * slot});

  push(checkpoints, 0, 2 * slot_floats);
  try {
    push(checkpoints, 1, 2 * slot_floats);
    FAIL("no error");
  } catch (const BudgetError& error) {
    CHECK(error.short_by() == Bytes{slot});
    CHECK(std::string{error.what()} ==
          "a checkpoint of float32 [2048] in the device memory of activations needs 8192 bytes, 4096 are left: "
          "4096 bytes short; raise bytes");
  }
  CHECK(pop_holds(checkpoints, 0));
}

TEST_CASE("equal passes get equal addresses, on any tier") {
  std::optional<std::vector<std::ptrdiff_t>> expected;
  for (const Place place : {Place::host, Place::nvme}) {
    Rig rig;
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.tier(place), slots(20, 5)};
    for (int round = 0; round < 4; ++round) {
      std::vector<std::ptrdiff_t> where;
      const auto pointers = pass(checkpoints, 17, slot_floats - 100);
      for (const float* p : pointers) where.push_back(p - pointers[0]);
      for (std::size_t i = 0; i < 17; ++i) CHECK(where[i] == where[33 - i]);  // and comes back where it was
      if (!expected) expected = where;
      CHECK(where == *expected);
    }
  }
}

TEST_CASE("from the second pass on, what will have to leave is saved when it is committed") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(4, 3)};
  const auto forward = [&](std::size_t count) {
    std::vector<std::uint64_t> saved;
    const std::uint64_t before = checkpoints.counters().bytes_offloaded;
    for (std::size_t i = 0; i < count; ++i) {
      push(checkpoints, static_cast<std::uint32_t>(i));
      saved.push_back((checkpoints.counters().bytes_offloaded - before) / slot);
    }
    return saved;
  };
  const auto backward = [&](std::size_t count) {
    const std::uint64_t before = checkpoints.counters().bytes_fetched;
    for (std::size_t i = count; i-- > 0;) CHECK(pop_holds(checkpoints, static_cast<std::uint32_t>(i)));
    return (checkpoints.counters().bytes_fetched - before) / slot;
  };
  using Counts = std::vector<std::uint64_t>;
  CHECK(forward(5) == Counts{0, 0, 0, 1, 2});
  CHECK(backward(5) == 2);
  CHECK(forward(5) == Counts{1, 2, 2, 2, 2});
  CHECK(backward(5) == 2);
  CHECK(forward(2) == Counts{1, 2});  // in vain, and not again
  CHECK(backward(2) == 0);
  CHECK(forward(2) == Counts{0, 0});
  checkpoints.clear();  // ends a pass as well
  CHECK(forward(7) == Counts{0, 0, 0, 1, 2, 3, 4});
  checkpoints.clear();
  CHECK(forward(6) == Counts{1, 2, 3, 4, 4, 4});
  CHECK(backward(6) == 3);
  CHECK(checkpoints.counters().misses == 0);
}

TEST_CASE("a pass within a pass is part of it") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(8, 3)};
  std::uint64_t moved = 0;
  for (int round = 0; round < 3; ++round) {
    for (std::uint32_t i = 0; i < 6; ++i) push(checkpoints, i);
    for (std::uint32_t i = 6; i-- > 0;) {
      const auto x = checkpoints.pop<Floats>(calling_thread);
      CHECK(holds(*x, i));
      for (std::uint32_t k = 0; k < 2; ++k) push(checkpoints, 100 + k);  // recomputed from x, which is held
      for (std::uint32_t k = 2; k-- > 0;) CHECK(pop_holds(checkpoints, 100 + k));
    }
    const std::uint64_t now = checkpoints.counters().bytes_offloaded;
    CHECK(now - std::exchange(moved, now) == 5 * slot);  // the outer ones but the last, which never stays long enough
  }
}

TEST_CASE("leases end in any order, and commits make the order of the stack") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, slots(8, 4)};
  for (std::uint32_t i = 0; i < 6; ++i) push(checkpoints, i);
  {
    auto a = checkpoints.pop<Floats>(calling_thread);
    auto b = checkpoints.pop<Floats>(calling_thread);
    auto x = checkpoints.push<Floats>(calling_thread, {slot_floats});
    auto y = checkpoints.push<Floats>(calling_thread, {slot_floats});
    CHECK(checkpoints.size() == 4);
    fill(*x, 10);
    fill(*y, 11);
    a.release();
    CHECK(a->data == nullptr);
    y.commit();
    CHECK(y->data == nullptr);
    CHECK(holds(*b, 4));
    auto moved = std::move(x);
    moved.commit();
    CHECK(checkpoints.size() == 6);
  }
  CHECK(pop_holds(checkpoints, 10));
  CHECK(pop_holds(checkpoints, 11));
  for (std::uint32_t i = 4; i-- > 0;) CHECK(pop_holds(checkpoints, i));
}

TEST_CASE("a checkpoint whose place is held by a lease comes back elsewhere") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(4, 3)};
  for (std::uint32_t i = 0; i < 5; ++i) push(checkpoints, i);
  auto four = checkpoints.pop<Floats>(calling_thread);   // where 1 was
  auto three = checkpoints.pop<Floats>(calling_thread);  // where 0 was
  CHECK(pop_holds(checkpoints, 2));
  CHECK(pop_holds(checkpoints, 1));
  CHECK(checkpoints.counters().misses == 1);
  CHECK(pop_holds(checkpoints, 0));
  CHECK(checkpoints.counters().misses == 2);
  CHECK(holds(*four, 4));
  CHECK(holds(*three, 3));
}

TEST_CASE("leases that leave no room are named, and the stack stays as it is") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(4, 2)};
  for (std::uint32_t i = 0; i < 3; ++i) push(checkpoints, i);
  auto two = checkpoints.pop<Floats>(calling_thread);
  auto one = checkpoints.pop<Floats>(calling_thread);
  const std::string expected =
      "a checkpoint of float32 [1024] in the device memory of activations needs 4096 bytes, 0 are left: 4096 bytes "
      "short; raise device_bytes, or release one of the leases held: a checkpoint of float32 [1024] being read, "
      "a checkpoint of float32 [1024] being read";
  CHECK_THROWS_WITH_AS(static_cast<void>(checkpoints.pop<Floats>(calling_thread)), expected.c_str(), BudgetError);
  CHECK_THROWS_WITH_AS(push(checkpoints, 9), expected.c_str(), BudgetError);
  CHECK(checkpoints.size() == 1);
  one.release();
  CHECK(pop_holds(checkpoints, 0));
  CHECK(holds(*two, 2));
}

TEST_CASE("a push that does not fit on the tier is refused before anything has changed") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(2, 3)};
  for (std::uint32_t i = 0; i < 4; ++i) push(checkpoints, i);
  const std::uint64_t before = checkpoints.counters().bytes_offloaded;
  try {
    push(checkpoints, 9, 2 * slot_floats);
    FAIL("no error");
  } catch (const BudgetError& error) {
    CHECK(error.requested() == Bytes{2 * slot});
    CHECK(error.short_by() == Bytes{slot});
    CHECK(std::string{error.what()} ==
          "activations on host memory, to make room for a checkpoint of float32 [2048] in device memory, needs 8192 "
          "bytes, 4096 are left: 4096 bytes short; raise bytes or device_bytes");
  }
  CHECK_THROWS_AS(push(checkpoints, 9, 4 * slot_floats), BudgetError);
  CHECK_THROWS_AS(push(checkpoints, 9, std::size_t{1} << 62), BudgetError);
  CHECK(checkpoints.counters().bytes_offloaded == before);
  CHECK(checkpoints.size() == 4);
  push(checkpoints, 4);  // what fits still does
  for (std::uint32_t i = 5; i-- > 0;) CHECK(pop_holds(checkpoints, i));
}

TEST_CASE("more pops than pushes, or a pop of another type, are refused") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(1, 1)};
  const auto pop_floats = [&] { static_cast<void>(checkpoints.pop<Floats>(calling_thread)); };
  const auto pop_halves = [&] { static_cast<void>(checkpoints.pop<Halves>(calling_thread)); };
  CHECK_THROWS_WITH_AS(pop_floats(), "activations are empty: more was popped than pushed", LeaseError);
  {
    auto saved = checkpoints.push<Halves>(calling_thread, {2, 3});
    fill(*saved, 1);
    saved.commit();
  }
  CHECK_THROWS_WITH_AS(pop_floats(),
                       "the top of activations is a checkpoint of bfloat16 [2 x 3], and was popped as float32",
                       LeaseError);
  CHECK(checkpoints.size() == 1);
  CHECK(holds(*checkpoints.pop<Halves>(calling_thread), 1));
  CHECK_THROWS_AS(pop_halves(), LeaseError);
}

TEST_CASE("what is dropped uncommitted makes the stack unusable until it is cleared") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(4, 2)};
  push(checkpoints, 0);
  static_cast<void>(checkpoints.push<Floats>(calling_thread, {8}));
  const char* const expected =
      "a checkpoint of float32 [8] was dropped with neither commit() nor release(): the stack of activations lacks it "
      "until clear()";
  CHECK_THROWS_WITH_AS(static_cast<void>(checkpoints.pop<Floats>(calling_thread)), expected, LeaseError);
  CHECK_THROWS_WITH_AS(push(checkpoints, 1), expected, LeaseError);
  checkpoints.clear();
  CHECK(checkpoints.size() == 0);
  pass(checkpoints, 5);

  auto given_up = checkpoints.push<Floats>(calling_thread, {slot_floats});
  given_up.release();
  CHECK(given_up->data == nullptr);
  pass(checkpoints, 5);

  {
    auto assigned = checkpoints.push<Floats>(calling_thread, {8});
    assigned = checkpoints.push<Floats>(calling_thread, {8});
    assigned.release();
  }
  CHECK_THROWS_WITH_AS(push(checkpoints, 1), expected, LeaseError);
}

TEST_CASE("a lease that has ended, or whose tensor points elsewhere, cannot be committed") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_host, slots(4, 2)};
  auto saved = checkpoints.push<Floats>(calling_thread, {8});
  saved.commit();
  CHECK_THROWS_WITH_AS(saved.commit(), "the checkpoint's lease has ended already", LeaseError);
  saved.release();
  CHECK(checkpoints.size() == 1);

  float elsewhere[8] = {};
  auto rebound = checkpoints.push<Floats>(calling_thread, {8});
  rebound->data = elsewhere;
  CHECK_THROWS_AS(rebound.commit(), LeaseError);
  CHECK(checkpoints.size() == 1);
  rebound.release();
}

TEST_CASE("clearing leaves what is leased") {
  Rig rig;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, slots(4, 3)};
  for (std::uint32_t i = 0; i < 5; ++i) push(checkpoints, i);
  auto read = checkpoints.pop<Floats>(calling_thread);
  auto written = checkpoints.push<Floats>(calling_thread, {slot_floats});
  checkpoints.clear();
  CHECK(checkpoints.size() == 0);
  fill(*written, 7);
  CHECK(holds(*read, 4));
  written.commit();
  CHECK(pop_holds(checkpoints, 7));
  read.release();
  pass(checkpoints, 7);
}

/// What all arenas and tiers hold.
std::array<std::size_t, 5> used(Rig& rig) {
  return {rig.memory.device.memory().used().count, rig.memory.device.host_memory().used().count,
          rig.memory.on_device.counters().used.count, rig.memory.on_host.counters().used.count,
          rig.memory.on_nvme.counters().used.count};
}

TEST_CASE("a lease may outlive its checkpoints") {
  for (const Place place : places) {
    Rig rig;
    const auto before = used(rig);
    {
      std::optional<zerospan::PopLease<Floats>> read;
      std::optional<zerospan::PushLease<Floats>> written;
      {
        ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.tier(place), slots(4, 3)};
        push(checkpoints, 1);
        read.emplace(checkpoints.pop<Floats>(calling_thread));
        written.emplace(checkpoints.push<Floats>(calling_thread, {8}));
      }
      CHECK(holds(**read, 1));
      fill(**written, 2);
      CHECK_THROWS_WITH_AS(written->commit(), "activations are gone", LeaseError);
      read->release();
      CHECK((*read)->data == nullptr);
    }
    CHECK(used(rig) == before);
  }
}

TEST_CASE("what cannot be had is refused at once, and nothing is taken") {
  Rig rig;
  const auto before = used(rig);
  const auto make = [&](Place place, const ActivationOptions& options) {
    const ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.tier(place), options};
  };
  CHECK_THROWS_AS(make(Place::device, {.bytes = 2_MiB}), BudgetError);
  CHECK_THROWS_AS(make(Place::host, {.bytes = 2_MiB, .device_bytes = 64_KiB}), BudgetError);
  CHECK_THROWS_AS(make(Place::host, {.bytes = 64_KiB, .device_bytes = 2_MiB}), BudgetError);
  CHECK_THROWS_AS(make(Place::nvme, {.bytes = 64_KiB, .device_bytes = 64_KiB, .staging = 2_MiB}), BudgetError);
  CHECK_THROWS_AS(make(Place::nvme, {.bytes = Bytes{std::size_t{1} << 62}, .device_bytes = 64_KiB}), std::exception);
  CHECK_THROWS_AS(make(Place::nvme, {.bytes = 64_KiB, .device_bytes = 64_KiB, .staging = Bytes{4095}}),
                  ConfigurationError);
  CHECK_THROWS_AS(make(Place::host, {.device_bytes = 64_KiB, .timeout = std::chrono::milliseconds{0}}),
                  ConfigurationError);
  zerospan_test::AlignedTier coarse{rig.memory.on_nvme, 8192};
  const auto make_coarse = [&] { const ActivationCheckpoints checkpoints{rig.memory.device, coarse, slots(4, 4)}; };
  CHECK_THROWS_AS(make_coarse(), ConfigurationError);
  CHECK(used(rig) == before);
  make(Place::host, {.bytes = 64_KiB, .device_bytes = 1_MiB});
  CHECK(used(rig) == before);
}

TEST_CASE("transfers keep to the alignment of the tier") {
  Rig rig;
  zerospan_test::AlignedTier coarse{rig.memory.on_nvme, 4096};
  ActivationCheckpoints checkpoints{rig.memory.device, coarse, slots(8, 3)};
  for (int round = 0; round < 2; ++round) pass(checkpoints, 10, slot_floats - 7);
  CHECK(checkpoints.counters().peak_tier == Bytes{7 * 4096});
  CHECK(checkpoints.counters().bytes_offloaded == 2 * 7 * (slot - 28));
}

TEST_CASE("several objects share a device and a tier") {
  Rig rig;
  const auto before = used(rig);
  {
    ActivationOptions options = slots(8, 3);
    ActivationCheckpoints a{rig.memory.device, rig.memory.on_nvme, options};
    options.name = "others";
    ActivationCheckpoints b{rig.memory.device, rig.memory.on_nvme, options};
    ActivationCheckpoints c{rig.memory.device, rig.memory.on_host, options};
    for (std::uint32_t i = 0; i < 8; ++i) {
      push(a, i);
      push(b, 100 + i);
      push(c, 200 + i);
    }
    for (std::uint32_t i = 8; i-- > 0;) {
      CHECK(pop_holds(c, 200 + i));
      CHECK(pop_holds(a, i));
      CHECK(pop_holds(b, 100 + i));
    }
    CHECK_THROWS_WITH_AS(pop_holds(b, 0), "others are empty: more was popped than pushed", LeaseError);
  }
  CHECK(used(rig) == before);
}

TEST_CASE("the timeline shows the lanes under the rank and name that were given") {
  Rig rig;
  zerospan::Timeline timeline;
  {
    ActivationOptions options = slots(8, 3);
    options.rank = zerospan::Rank{5};
    options.name = "residuals";
    options.timeline = &timeline;
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, options};
    pass(checkpoints, 5);
  }
  std::size_t reads = 0;
  for (const zerospan::Span& span : timeline.spans()) {
    CHECK(span.rank == zerospan::Rank{5});
    CHECK((span.name == "residuals" || span.name == "host"));
    reads += span.kind == "read" ? 1 : 0;
  }
  CHECK(reads == 2);
}

/// Forward and backward passes, one after the other, until something fails.
void run_passes(Rig& rig, std::chrono::milliseconds timeout) {
  ActivationOptions options = slots(8, 2);
  options.timeout = timeout;
  ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, options};
  pass(checkpoints, 6);
  pass(checkpoints, 6);
}

TEST_CASE("a failed transfer is an IoError that says where, and leaves nothing behind") {
  for (const FaultKind kind : {FaultKind::error, FaultKind::zero}) {
    std::size_t failures = 0;
    for (std::uint64_t request = 0;; ++request) {
      CAPTURE(request);
      Rig rig;
      const auto before = used(rig);
      rig.io.inject({{.kind = kind, .request = request}});
      try {
        run_passes(rig, std::chrono::seconds{30});
      } catch (const IoError& error) {
        rig.io.wait_idle();  // nobody else refers to the error any more
        CHECK(error.code().value() == EIO);
        CHECK(error.path().find("arena file") != std::string::npos);
        CHECK(error.offset() % slot == 0);
        CHECK(error.bytes() == slot);
        ++failures;
      }
      CHECK(used(rig) == before);
      if (rig.io.injected() == 0) break;
    }
    CHECK(failures >= 8);  // of 16 transfers; a late write fails unnoticed where nothing is called after it
  }
}

TEST_CASE("short transfers are continued") {
  for (const FaultKind kind : {FaultKind::short_transfer, FaultKind::ragged}) {
    Rig rig;
    rig.io.inject({{.kind = kind, .every = 2}});
    run_passes(rig, std::chrono::seconds{30});
    CHECK(rig.io.injected() >= 8);
  }
}

TEST_CASE("after an error every call throws it, and the end comes cleanly") {
  Rig rig;
  const auto before = used(rig);
  {
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, slots(8, 2)};
    for (std::uint32_t i = 0; i < 4; ++i) push(checkpoints, i);
    auto held = checkpoints.push<Floats>(calling_thread, {slot_floats});
    rig.io.wait_idle();
    rig.io.inject({{.kind = FaultKind::error, .error_number = ENOSPC}});
    held.release();  // brings one back
    const auto pop_all = [&] {
      while (true) static_cast<void>(checkpoints.pop<Floats>(calling_thread));
    };
    CHECK_THROWS_AS(pop_all(), IoError);
    CHECK_THROWS_AS(pop_all(), IoError);
    CHECK_THROWS_AS(push(checkpoints, 9), IoError);
    CHECK_THROWS_AS(checkpoints.clear(), IoError);
    CHECK(rig.io.injected() == 1);
  }
  CHECK(used(rig) == before);
  rig.io.inject({});
  run_passes(rig, std::chrono::seconds{30});
}

TEST_CASE("an error that nobody asks for any more does not hold up the end") {
  Rig rig;
  const auto before = used(rig);
  {
    ActivationCheckpoints checkpoints{rig.memory.device, rig.memory.on_nvme, slots(8, 2)};
    rig.io.inject({{.kind = FaultKind::error, .every = 1}});
    for (std::uint32_t i = 0; i < 2; ++i) push(checkpoints, i);
    try {
      const auto written = checkpoints.push<Floats>(calling_thread, {slot_floats});
    } catch (const IoError&) {  // where the write has failed before the push is over
    }
  }
  CHECK(rig.io.injected() == 1);
  CHECK(used(rig) == before);
}

TEST_CASE("a lost transfer is a TimeoutError, and may be delivered when all is over") {
  for (const bool delivers : {false, true}) {
    Rig rig;
    rig.io.inject({{.kind = FaultKind::lost, .request = 4}});  // the first read
    try {
      run_passes(rig, std::chrono::milliseconds{200});
      FAIL("no error");
    } catch (const TimeoutError& error) {
      CHECK(std::string{error.what()} == "read of activations did not end within 200 ms");
    }
    CHECK(rig.io.lost() == 1);
    CHECK(rig.memory.device.memory().used() == Bytes{2 * slot});  // nobody's any more
    CHECK(rig.memory.on_nvme.counters().used == Bytes{8 * slot});
    if (delivers) {
      rig.io.deliver_lost();
    } else {
      rig.io.drop_lost();
    }
  }
}

/// Passes everything on to another tier, and counts transfers under way at once on the same bytes, one a write.
class WatchedTier {
 public:
  explicit WatchedTier(TierRef inner) : inner_{inner} {}

  std::string_view name() const { return inner_.name(); }
  std::size_t alignment() const { return inner_.alignment(); }
  zerospan::Addressable addressable() const { return inner_.addressable(); }
  void reserve(Bytes bytes, std::string_view what) { inner_.reserve(bytes, what); }
  void cancel(Bytes bytes) noexcept { inner_.cancel(bytes); }
  Extent place(std::size_t bytes) { return inner_.place(bytes); }
  void remove(const Extent& extent) noexcept { inner_.remove(extent); }
  std::byte* view(const Extent& extent) { return inner_.view(extent); }
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    const std::size_t watch = begins(offset, bytes, false);
    return ends(watch, inner_.read(extent, offset, data, bytes));
  }
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    const std::size_t watch = begins(offset, bytes, true);
    return ends(watch, inner_.write(extent, offset, data, bytes));
  }
  zerospan::TierCounters counters() const { return inner_.counters(); }

  std::size_t meetings() const {
    const std::scoped_lock lock{state_->mutex};
    return state_->meetings;
  }

 private:
  struct Range {
    std::size_t begin;
    std::size_t end;
    bool is_write;
  };
  struct State {
    std::mutex mutex;
    std::map<std::size_t, Range> under_way;
    std::size_t transfers = 0;
    std::size_t meetings = 0;
  };

  std::size_t begins(std::size_t offset, std::size_t bytes, bool is_write) {
    const std::scoped_lock lock{state_->mutex};
    for (const auto& [id, other] : state_->under_way) {
      const bool overlaps = offset < other.end && other.begin < offset + bytes;
      state_->meetings += overlaps && (is_write || other.is_write) ? 1 : 0;
    }
    state_->under_way.emplace(++state_->transfers, Range{offset, offset + bytes, is_write});
    return state_->transfers;
  }

  /// The transfer counts as under way until whoever waits for the result is told.
  Completion ends(std::size_t watch, const Completion& transfer) {
    const auto promise = std::make_shared<Promise>("watched");
    transfer.then([state = state_, watch, promise](const std::exception_ptr& error) {
      {
        const std::scoped_lock lock{state->mutex};
        state->under_way.erase(watch);
      }
      error ? promise->fail(error) : promise->succeed();
    });
    return promise->completion();
  }

  TierRef inner_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// A random program of pushes, pops and leases on checkpoints, beside an ordinary stack.
class RandomUse {
 public:
  RandomUse(std::uint32_t seed, Place place)
      : random_{seed},
        tier_{rig_.memory.tier(place)},
        checkpoints_{rig_.memory.device,
                     tier_,
                     {.bytes = Bytes{(4 + random() % 20) * slot},
                      .device_bytes = Bytes{(2 + random() % 6) * slot},
                      .staging = Bytes{(1 + random() % 8) * slot}}} {}

  void step() {
    if (random() % 50 == 0) pushes_ = random() % 60;  // of 60 steps: forward or backward
    const std::uint32_t choice = random() % 100;
    if (choice < pushes_) {
      attempt([&] { random() % 3 == 0 ? push<bfloat16>() : push<float>(); });
    } else if (choice < 60) {
      attempt([&] { pop(); });
    } else if (choice < 99 && !held_.empty()) {
      release(random() % held_.size());
    } else if (choice == 99) {
      checkpoints_.clear();
      stack_.clear();
    }
    REQUIRE(checkpoints_.size() == stack_.size());
  }

  void finish() {
    while (!held_.empty()) release(0);
    while (!stack_.empty()) {
      pop();
      release(0);
    }
    // What was popped before it was offloaded is waited for by nobody: its copy may end, and be counted, later.
    ActivationCounters counters = checkpoints_.counters();
    const auto copied = [&] { return counters.operations[OperationKind::copy].bytes; };
    const auto moved = [&] { return counters.bytes_offloaded + counters.bytes_fetched; };
    for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes{1};
         copied() < moved() && std::chrono::steady_clock::now() < deadline; counters = checkpoints_.counters()) {
      std::this_thread::yield();
    }
    REQUIRE(copied() == moved());
    moved_ = counters.bytes_fetched;
    REQUIRE(tier_.meetings() == 0);
  }

  std::uint64_t moved() const { return moved_; }
  std::uint64_t refused() const { return refused_; }

 private:
  struct Entry {
    std::size_t elements;
    std::uint32_t seed;
    bool is_half;
  };
  struct Lease {
    Entry entry;
    std::variant<zerospan::PopLease<Floats>, zerospan::PopLease<Halves>, zerospan::PushLease<Floats>,
                 zerospan::PushLease<Halves>>
        lease;
  };

  /// What is refused leaves everything as it was.
  template <class F>
  void attempt(F f) {
    const ActivationCounters before = checkpoints_.counters();
    try {
      f();
    } catch (const BudgetError& error) {
      ++refused_;
      const ActivationCounters after = checkpoints_.counters();
      REQUIRE(error.short_by() > Bytes{0});
      REQUIRE(before.bytes_offloaded == after.bytes_offloaded);
      REQUIRE(before.bytes_fetched == after.bytes_fetched);
    }
  }

  template <class E>
  void push() {
    const Entry entry{1 + random() % (3 * slot_floats), random(), sizeof(E) == 2};
    auto lease = checkpoints_.push<Array<E>>(calling_thread, {entry.elements});
    fill(*lease, entry.seed);
    if (random() % 4 == 0) {
      held_.push_back({entry, std::move(lease)});
    } else {
      lease.commit();
      stack_.push_back(entry);
    }
  }

  void pop() {
    if (stack_.empty()) return;
    const Entry entry = stack_.back();
    if (entry.is_half) {
      held_.push_back({entry, checkpoints_.pop<Halves>(calling_thread)});
    } else {
      held_.push_back({entry, checkpoints_.pop<Floats>(calling_thread)});
    }
    stack_.pop_back();
  }

  void release(std::size_t i) {
    Lease held = std::move(held_[i]);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
    std::visit(
        [&](auto& lease) {
          REQUIRE(lease->size == held.entry.elements);
          REQUIRE(holds(*lease, held.entry.seed));
          if constexpr (requires { lease.commit(); }) {
            if (random() % 2 == 0) {
              lease.commit();
              stack_.push_back(held.entry);
            }
          }
          lease.release();
        },
        held.lease);
  }

  std::uint32_t random() { return static_cast<std::uint32_t>(random_()); }

  std::mt19937 random_;
  Rig rig_;
  WatchedTier tier_;
  ActivationCheckpoints checkpoints_;
  std::vector<Entry> stack_;
  std::vector<Lease> held_;
  std::uint32_t pushes_ = 40;
  std::uint64_t moved_ = 0;
  std::uint64_t refused_ = 0;
};

TEST_CASE("at random: contents, order and refusals are those of an ordinary stack") {
  for (const Place place : places) {
    std::uint64_t moved = 0;
    std::uint64_t refused = 0;
    constexpr std::uint32_t seeds = zerospan_test::is_sanitized ? 7 : 25;
    for (std::uint32_t seed = 0; seed < seeds; ++seed) {
      CAPTURE(seed);
      RandomUse use{seed, place};
      for (int i = 0; i < 400; ++i) use.step();
      use.finish();
      moved += use.moved();
      refused += use.refused();
    }
    CHECK(refused > 2 * seeds);
    CHECK((place == Place::device ? moved == 0 : moved > 12 * seeds * slot));
  }
}

TEST_CASE("tensors whose element type is known at run time come back as what they were pushed") {
  using zerospan_test::RuntimeArray;
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier host{device};
  zerospan::ActivationCheckpoints checkpoints{device, host, {.bytes = 64_KiB, .device_bytes = 4_KiB}};
  for (const zerospan::ElementType type : {zerospan::ElementType::float32, zerospan::ElementType::bfloat16}) {
    auto saved = checkpoints.push<RuntimeArray>(calling_thread, {512}, type);
    CHECK(saved->type == type);
    std::fill_n(saved->data, 512 * element_bytes(type), static_cast<std::byte>(type));
    saved.commit();
  }
  for (const zerospan::ElementType type : {zerospan::ElementType::bfloat16, zerospan::ElementType::float32}) {
    const auto back = checkpoints.pop<RuntimeArray>(calling_thread);
    CHECK(back->type == type);
    CHECK(back->size == 512);
    CHECK(std::all_of(back->data, back->data + 512 * element_bytes(type),
                      [&](std::byte b) { return b == static_cast<std::byte>(type); }));
  }
}

}  // namespace
