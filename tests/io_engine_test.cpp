#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/arena_file.hpp>

#include "support/faulty_io_engine.hpp"
#include "support/scratch.hpp"

#ifdef ZEROSPAN_HAS_LIBAIO
#include <zerospan/io/libaio_engine.hpp>
#endif

namespace {

using zerospan::ConfigurationError;
using zerospan::IoCallback;
using zerospan::IoDirection;
using zerospan::IoRequest;
using zerospan::ThreadedIoEngine;
using zerospan_test::AlignedBuffer;
using zerospan_test::Countdown;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::ScratchDirectory;

// Near misses.
struct NoQueueDepth {
  void submit(const IoRequest&, IoCallback);
  std::string_view name() const;
};
struct NoCallback {
  void submit(const IoRequest&);
  std::size_t queue_depth() const;
  std::string_view name() const;
};
struct MutableRequest {
  void submit(IoRequest&, IoCallback);
  std::size_t queue_depth() const;
  std::string_view name() const;
};
struct NumberForName {
  void submit(const IoRequest&, IoCallback);
  std::size_t queue_depth() const;
  int name() const;
};
static_assert(!zerospan::IoEngine<NoQueueDepth>);
static_assert(!zerospan::IoEngine<NoCallback>);
static_assert(!zerospan::IoEngine<MutableRequest>);
static_assert(!zerospan::IoEngine<NumberForName>);
static_assert(zerospan::IoEngine<FaultyIoEngine<ThreadedIoEngine>>);

struct ThreadedRig {
  ThreadedIoEngine engine{{.threads = 3}};
};

template <class Rig>
struct FaultyRig {
  Rig rig;
  FaultyIoEngine<decltype(rig.engine)> engine{rig.engine};
};

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
  zerospan::ArenaFile file;
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
      for (const std::size_t child : {2 * slot + 1, 2 * slot + 2}) {
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
  Rig rig;
  constexpr std::size_t threads = 4;
  constexpr std::size_t each = 50;
  const Slots slots{threads * each};
  slots.buffer.fill(2);
  const AlignedBuffer written{slots.buffer.size()};
  std::copy_n(slots.buffer.data(), written.size(), written.data());
  std::vector<std::atomic<int>> calls(threads * each);
  for (const IoDirection direction : {IoDirection::write, IoDirection::read}) {
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
  Rig rig;
  const Slots slots{2};
  IoRequest closed = slots.request(IoDirection::read, 0);
  closed.file_descriptor = -1;
  CHECK(outcome_of(rig.engine, closed) == -EBADF);
  closed.direction = IoDirection::write;
  CHECK(outcome_of(rig.engine, closed) == -EBADF);

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

#define ZEROSPAN_TEST_ENGINES(id) TEST_CASE_TEMPLATE_INVOKE(id, ThreadedRig, FaultyRig<ThreadedRig>)
ZEROSPAN_TEST_ENGINES(random_io);
ZEROSPAN_TEST_ENGINES(chained);
ZEROSPAN_TEST_ENGINES(many_threads);
ZEROSPAN_TEST_ENGINES(errors);
ZEROSPAN_TEST_ENGINES(destruction);
#undef ZEROSPAN_TEST_ENGINES

TEST_CASE("an engine without threads is refused") {
  CHECK_THROWS_WITH_AS(ThreadedIoEngine{{.threads = 0}}, "a ThreadedIoEngine needs at least one thread",
                       ConfigurationError);
  CHECK(ThreadedIoEngine{{.threads = 2}}.queue_depth() == 2);
}

TEST_CASE("a faulty engine does what its plan says") {
  FaultyRig<ThreadedRig> rig;
  const Slots slots{1};
  const IoRequest write = slots.request(IoDirection::write, 0);
  const IoRequest read = slots.request(IoDirection::read, 0);
  constexpr std::int64_t whole = Slots::bytes;

  SUBCASE("an error moves nothing") {
    slots.buffer.fill(3);
    rig.engine.inject({{.kind = FaultKind::error, .request = 1, .error_number = ENOSPC}});
    CHECK(outcome_of(rig.engine, write) == whole);
    CHECK(outcome_of(rig.engine, write) == -ENOSPC);
    CHECK(outcome_of(rig.engine, write) == whole);
    CHECK(rig.engine.requests() == 3);
    CHECK(rig.engine.injected() == 1);
    CHECK(rig.engine.bytes_reported(IoDirection::write) == 2 * Slots::bytes);
  }
  SUBCASE("a short transfer really moves its part") {
    slots.buffer.fill(4);
    rig.engine.inject({{.kind = FaultKind::short_transfer}});
    CHECK(outcome_of(rig.engine, write) == whole / 2);
    const AlignedBuffer written{Slots::bytes};
    std::copy_n(slots.buffer.data(), Slots::bytes / 2, written.data());
    CHECK(outcome_of(rig.engine, read) == whole);
    CHECK((slots.buffer == written));
  }
  SUBCASE("a ragged transfer moves more than it says") {
    rig.engine.inject({{.kind = FaultKind::ragged}});
    CHECK(outcome_of(rig.engine, write) == whole - 100);
  }
  SUBCASE("every third request moves nothing") {
    rig.engine.inject({{.kind = FaultKind::zero, .request = 1, .every = 3}});
    std::vector<std::int64_t> results;
    for (int i = 0; i < 6; ++i) results.push_back(outcome_of(rig.engine, read));
    CHECK(results == std::vector<std::int64_t>{whole, 0, whole, whole, 0, whole});
  }
  SUBCASE("a lost completion is delivered late, or dropped") {
    for (const bool is_delivered : {true, false}) {
      rig.engine.inject({{.kind = FaultKind::lost}});
      const auto seen = std::make_shared<std::int64_t>(0);
      rig.engine.submit(read, [seen](std::int64_t result) { *seen = result; });
      CHECK(outcome_of(rig.engine, read) == whole);
      CHECK(*seen == 0);
      CHECK(rig.engine.lost() == 1);
      CHECK(seen.use_count() == 2);
      if (is_delivered) rig.engine.deliver_lost();
      rig.engine.drop_lost();
      CHECK(*seen == (is_delivered ? whole : 0));
      CHECK(seen.use_count() == 1);
    }
  }
  SUBCASE("held completions are released in the order of their requests") {
    rig.engine.hold();
    std::vector<int> order;
    for (int i = 0; i < 8; ++i) rig.engine.submit(write, [&, i](std::int64_t) { order.push_back(i); });
    rig.engine.wait_for_held(8);
    CHECK(order.empty());
    CHECK(rig.engine.release_next());
    CHECK(order == std::vector<int>{0});
    rig.engine.release();
    CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(!rig.engine.release_next());
  }
}

#ifdef ZEROSPAN_HAS_LIBAIO

using zerospan::BasicLibaioEngine;
using zerospan::LibaioEngine;

struct LibaioRig {
  LibaioEngine engine{{.queue_depth = 8}};
};

/// Takes one request at a time, meets EAGAIN at every other call as long as something is under way, and is interrupted
/// at every third wait.
struct ReluctantCalls : zerospan::LibaioCalls {
  struct State {
    std::atomic<int> submits = 0;
    std::atomic<int> waits = 0;
    std::atomic<int> under_way = 0;
    std::atomic<int> refusals = 0;
  };

  int submit(io_context_t context, long, iocb** requests) const noexcept {
    if (state->submits++ % 2 == 1 && state->under_way > 0) {
      ++state->refusals;
      return -EAGAIN;
    }
    ++state->under_way;
    const int accepted = ::io_submit(context, 1, requests);
    if (accepted != 1) --state->under_way;
    return accepted;
  }
  int get_events(io_context_t context, long count, io_event* events) const noexcept {
    if (state->waits++ % 3 == 0) return -EINTR;
    const int ended = LibaioCalls::get_events(context, count, events);
    state->under_way -= std::max(ended, 0);
    return ended;
  }

  std::shared_ptr<State> state = std::make_shared<State>();
};

struct ReluctantRig {
  BasicLibaioEngine<ReluctantCalls> engine{{.queue_depth = 8}};
};

TEST_CASE_TEMPLATE_INVOKE(random_io, LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);
TEST_CASE_TEMPLATE_INVOKE(chained, LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);
TEST_CASE_TEMPLATE_INVOKE(many_threads, LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);
TEST_CASE_TEMPLATE_INVOKE(errors, LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);
TEST_CASE_TEMPLATE_INVOKE(destruction, LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);

/// Reports nothing before it has met EAGAIN.
struct GatedCalls : ReluctantCalls {
  int get_events(io_context_t context, long count, io_event* events) const noexcept {
    state->refusals.wait(0);
    return ReluctantCalls::get_events(context, count, events);
  }
  int submit(io_context_t context, long count, iocb** requests) const noexcept {
    const int accepted = ReluctantCalls::submit(context, count, requests);
    if (accepted == -EAGAIN) state->refusals.notify_all();
    return accepted;
  }
};

TEST_CASE("partial submits and EAGAIN are met, and lose nothing") {
  const GatedCalls calls;
  const Slots slots{64};
  {
    BasicLibaioEngine<GatedCalls> engine{{.queue_depth = 4}, calls};
    Countdown ended{64};
    for (std::size_t i = 0; i < 64; ++i) {
      engine.submit(slots.request(IoDirection::write, i), [&](std::int64_t result) {
        if (result == Slots::bytes) ended.hit();
      });
    }
    ended.wait();
  }
  CHECK(calls.state->refusals > 0);
  CHECK(calls.state->submits == 64 + calls.state->refusals);
  CHECK(calls.state->under_way == 0);
}

/// Accepts nothing, for ever.
struct RefusingCalls : zerospan::LibaioCalls {
  static int submit(io_context_t, long, iocb**) noexcept { return -EAGAIN; }
};

TEST_CASE("EAGAIN with nothing under way reaches the callback") {
  BasicLibaioEngine<RefusingCalls> engine{{.queue_depth = 2}};
  const Slots slots{1};
  for (int i = 0; i < 5; ++i) CHECK(outcome_of(engine, slots.request(IoDirection::read, 0)) == -EAGAIN);
}

/// Has no contexts left.
struct ExhaustedCalls : zerospan::LibaioCalls {
  static int setup(int, io_context_t*) noexcept { return -EAGAIN; }
};

TEST_CASE("a context that the kernel refuses is a typed error") {
  CHECK_THROWS_WITH_AS(
      (BasicLibaioEngine<ExhaustedCalls>{{.queue_depth = 16}}),
      "io_setup for 16 requests failed: Resource temporarily unavailable; lower the queue depth, raise "
      "fs.aio-max-nr, or use a ThreadedIoEngine",
      ConfigurationError);
  CHECK_THROWS_AS(LibaioEngine{{.queue_depth = 0}}, ConfigurationError);
  CHECK_THROWS_AS(LibaioEngine{{.queue_depth = std::size_t{1} << 40}}, ConfigurationError);
  CHECK(!BasicLibaioEngine<ExhaustedCalls>::available());
  CHECK(LibaioEngine::available());
}

#endif

}  // namespace
