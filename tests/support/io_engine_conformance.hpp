/// @file
/// The conformance suite of IoEngine: every engine is put through it, in a rig whose member `engine` it is. A rig that
/// the system may not offer has a function `available`.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/tier/detail/arena_file.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

#include "offered.hpp"
#include "scratch.hpp"

namespace zerospan_test {

using zerospan::IoDirection;
using zerospan::IoRequest;

/// A file of `slots` slots, each with a buffer of its own.
struct Slots {
  static constexpr std::size_t bytes = 8192;

  explicit Slots(std::size_t count) : file{directory.path()}, buffer{count * bytes} {
    file.grow(count * bytes, "slots");
  }

  IoRequest request(IoDirection direction, std::size_t slot) const {
    return {direction, file.descriptor(), slot * bytes, buffer.data() + slot * bytes, bytes};
  }

  ScratchDirectory directory;
  zerospan::detail::ArenaFile file;
  AlignedBuffer buffer;
};

/// Submits one request and waits for its outcome.
template <class Engine>
std::int64_t outcome_of(Engine& engine, const IoRequest& request) {
  Countdown ended{1};
  std::int64_t outcome = 0;
  engine.submit(request, [&](std::int64_t result) {
    outcome = result;
    ended.hit();
  });
  ended.wait();
  return outcome;
}

TEST_CASE_TEMPLATE_DEFINE("an engine reads what was written, with more requests than its queue holds", Rig, random_io) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  constexpr std::size_t count = 100;
  REQUIRE(count > rig.engine.queue_depth());
  const Slots slots{count};
  const std::size_t unit = slots.file.alignment();
  std::vector<std::byte> model(count * Slots::bytes);
  std::mt19937_64 random{7};

  for (int round = 0; round < 10; ++round) {
    Countdown ended{count};
    std::vector<IoRequest> requests;
    std::vector<std::int64_t> results(count);
    for (std::size_t slot = 0; slot < count; ++slot) {
      IoRequest request = slots.request(random() % 2 == 0 ? IoDirection::read : IoDirection::write, slot);
      const std::size_t skipped = random() % (Slots::bytes / unit) * unit;
      request.offset += skipped;
      request.data += skipped;
      request.bytes = (1 + random() % ((Slots::bytes - skipped) / unit)) * unit;
      for (std::byte& byte : std::span{request.data, request.bytes}) byte = static_cast<std::byte>(random() & 0xff);
      if (request.direction == IoDirection::write) {
        std::copy_n(request.data, request.bytes, model.begin() + static_cast<std::ptrdiff_t>(request.offset));
      }
      requests.push_back(request);
    }
    std::shuffle(requests.begin(), requests.end(), random);
    for (std::size_t i = 0; i < count; ++i) {
      rig.engine.submit(requests[i], [&, i](std::int64_t result) {
        results[i] = result;
        ended.hit();
      });
    }
    ended.wait();
    for (std::size_t i = 0; i < count; ++i) {
      REQUIRE(results[i] == static_cast<std::int64_t>(requests[i].bytes));
      REQUIRE(std::memcmp(requests[i].data, model.data() + requests[i].offset, requests[i].bytes) == 0);
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("callbacks submit further requests", Rig, chained) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  constexpr std::size_t count = 255;  // a binary tree: request i submits 2i+1 and 2i+2
  REQUIRE(count > rig.engine.queue_depth());
  const Slots slots{count};
  slots.buffer.fill(1);
  Countdown ended{count};
  std::vector<std::int64_t> results(count);
  const std::function<void(std::size_t)> submit = [&](std::size_t slot) {
    rig.engine.submit(slots.request(IoDirection::write, slot), [&, slot](std::int64_t result) {
      results[slot] = result;
      const std::size_t children[]{2 * slot + 1, 2 * slot + 2};
      for (const std::size_t child : children) {
        if (child < count) submit(child);
      }
      ended.hit();
    });
  };
  submit(0);
  ended.wait();
  CHECK(results == std::vector<std::int64_t>(count, Slots::bytes));

  const AlignedBuffer all{count * Slots::bytes};
  CHECK(outcome_of(rig.engine, {IoDirection::read, slots.file.descriptor(), 0, all.data(), all.size()}) ==
        static_cast<std::int64_t>(all.size()));
  CHECK((all == slots.buffer));
}

TEST_CASE_TEMPLATE_DEFINE("many threads submit at once, and every request ends once", Rig, many_threads) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  constexpr std::size_t threads = 4;
  constexpr std::size_t each = 50;
  const Slots slots{threads * each};
  slots.buffer.fill(2);
  const AlignedBuffer written{slots.buffer.size()};
  std::copy_n(slots.buffer.data(), written.size(), written.data());
  std::vector<std::atomic<int>> calls(threads * each);
  const IoDirection directions[]{IoDirection::write, IoDirection::read};
  for (const IoDirection direction : directions) {
    Countdown ended{threads * each};
    std::vector<std::thread> submitters;
    for (std::size_t t = 0; t < threads; ++t) {
      submitters.emplace_back([&, t] {
        for (std::size_t i = t * each; i < (t + 1) * each; ++i) {
          rig.engine.submit(slots.request(direction, i), [&, i](std::int64_t result) {
            if (result == Slots::bytes) ++calls[i];
            ended.hit();
          });
        }
      });
    }
    for (std::thread& submitter : submitters) submitter.join();
    ended.wait();
    if (direction == IoDirection::write) std::fill_n(slots.buffer.data(), slots.buffer.size(), std::byte{0});
  }
  CHECK(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 2; }));
  CHECK((slots.buffer == written));
}

TEST_CASE_TEMPLATE_DEFINE("errors and short transfers are reported as they are", Rig, errors) {
  if (!is_offered<Rig>()) return;
  Rig rig;
  const Slots slots{2};
  IoRequest closed = slots.request(IoDirection::read, 0);
  closed.file_descriptor = -1;
  CHECK(outcome_of(rig.engine, closed) == -EBADF);
  closed.direction = IoDirection::write;
  CHECK(outcome_of(rig.engine, closed) == -EBADF);

  IoRequest nowhere = slots.request(IoDirection::read, 0);
  for (const std::uint64_t offset : {std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    nowhere.offset = offset;
    CHECK(outcome_of(rig.engine, nowhere) == -EINVAL);
  }

  IoRequest beyond = slots.request(IoDirection::read, 1);
  const std::size_t half = Slots::bytes / 2;
  beyond.offset += half;
  CHECK(outcome_of(rig.engine, beyond) == static_cast<std::int64_t>(half));
  beyond.offset += half;
  CHECK(outcome_of(rig.engine, beyond) == 0);

  // Requests around a refused one are carried out.
  constexpr std::size_t count = 120;
  Countdown ended{count};
  std::vector<std::int64_t> results(count);
  for (std::size_t i = 0; i < count; ++i) {
    rig.engine.submit(i % 3 == 1 ? closed : slots.request(IoDirection::write, 0), [&, i](std::int64_t result) {
      results[i] = result;
      ended.hit();
    });
  }
  ended.wait();
  for (std::size_t i = 0; i < count; ++i) {
    REQUIRE(results[i] == (i % 3 == 1 ? -EBADF : static_cast<std::int64_t>(Slots::bytes)));
  }
}

TEST_CASE_TEMPLATE_DEFINE("the destructor waits for what was submitted, from callbacks too", Rig, destruction) {
  if (!is_offered<Rig>()) return;
  const Slots slots{64};
  std::atomic<std::size_t> ended = 0;
  {
    Rig rig;
    for (std::size_t i = 0; i < 64; ++i) {
      rig.engine.submit(slots.request(IoDirection::write, i), [&, i](std::int64_t) {
        ++ended;
        rig.engine.submit(slots.request(IoDirection::write, i), [&](std::int64_t) { ++ended; });
      });
    }
  }
  CHECK(ended == 128);
}

/// A completion that never comes holds up nobody but the end of the engine.
/// @param calls The system calls of an engine, which keep the first result back, as a disk does that does not answer,
/// until `release` is called.
template <class Engine, class Calls, class Release>
void check_lost_completion(const Calls& calls, Release release) {
  const ScratchDirectory directory;
  const AlignedBuffer lost{4096};
  const AlignedBuffer buffer{4096};
  lost.fill(1);
  zerospan::Completion never;
  {
    Engine engine{{.queue_depth = 4}, calls};
    {
      zerospan::NvmeTier tier{engine, {.directory = directory.path(), .drain_timeout = std::chrono::milliseconds{1}}};
      const zerospan::Extent first = tier.place(4096);
      const zerospan::Extent second = tier.place(4096);
      never = tier.write(first, 0, lost.data(), 4096);
      for (std::uint64_t seed = 2; seed < 12; ++seed) {
        const AlignedBuffer written{4096};
        written.fill(seed);
        tier.write(second, 0, written.data(), 4096).wait();
        tier.read(second, 0, buffer.data(), 4096).wait();
        CHECK((buffer == written));
      }
      CHECK_FALSE(never.done());
    }
    CHECK_FALSE(never.done());
    release();
  }
  CHECK(never.done());
  CHECK_NOTHROW(never.wait());
}

}  // namespace zerospan_test

/// Puts the engines of the given rigs through the whole suite. It stands outside of namespaces.
#define ZEROSPAN_TEST_IO_ENGINES(...)                   \
  namespace zerospan_test {                             \
  TEST_CASE_TEMPLATE_INVOKE(random_io, __VA_ARGS__);    \
  TEST_CASE_TEMPLATE_INVOKE(chained, __VA_ARGS__);      \
  TEST_CASE_TEMPLATE_INVOKE(many_threads, __VA_ARGS__); \
  TEST_CASE_TEMPLATE_INVOKE(errors, __VA_ARGS__);       \
  TEST_CASE_TEMPLATE_INVOKE(destruction, __VA_ARGS__);  \
  }                                                     \
  static_assert(true)
