#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>

#include "support/faulty_io_engine.hpp"
#include "support/io_engine_conformance.hpp"
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
using zerospan_test::outcome_of;
using zerospan_test::Slots;

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

struct AnyRig {
  zerospan::AnyIoEngine engine{std::in_place_type<ThreadedIoEngine>, zerospan::ThreadedIoOptions{.threads = 3}};
};

template <class Rig>
struct FaultyRig {
  Rig rig;
  FaultyIoEngine<decltype(rig.engine)> engine{rig.engine};
};

}  // namespace

ZEROSPAN_TEST_IO_ENGINES(ThreadedRig, AnyRig, FaultyRig<ThreadedRig>);

namespace {

TEST_CASE("an engine without threads is refused") {
  CHECK_THROWS_WITH_AS(ThreadedIoEngine{{.threads = 0}}, "a ThreadedIoEngine needs at least one thread",
                       ConfigurationError);
  CHECK(ThreadedIoEngine{{.threads = 2}}.queue_depth() == 2);
}

/// Is refused.
template <int number>
struct RefusedEngine : ThreadedIoEngine {
  RefusedEngine() { zerospan::throw_configuration_error("engine " + std::to_string(number) + " is refused"); }
};

TEST_CASE("of several engines the first is taken that the system does not refuse") {
  using zerospan::AnyIoEngine;
  AnyIoEngine threads = AnyIoEngine::first_of<RefusedEngine<1>, RefusedEngine<2>, ThreadedIoEngine, RefusedEngine<3>>();
  CHECK(threads.name() == "threads");
  CHECK(threads.queue_depth() == 4);
  const Slots slots{1};
  CHECK(outcome_of(threads, slots.request(IoDirection::write, 0)) == Slots::bytes);
  CHECK_THROWS_WITH_AS((AnyIoEngine::first_of<RefusedEngine<1>, RefusedEngine<2>>()), "engine 2 is refused",
                       ConfigurationError);
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

}  // namespace

ZEROSPAN_TEST_IO_ENGINES(LibaioRig, ReluctantRig, FaultyRig<LibaioRig>);

namespace {

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

/// Counts calls. The first waits until it is let go.
struct CountedCalls : zerospan::LibaioCalls {
  struct State {
    std::atomic<int> submits = 0;
    std::atomic<bool> may_go = false;
  };

  int submit(io_context_t context, long count, iocb** requests) const noexcept {
    ++state->submits;
    state->submits.notify_all();
    state->may_go.wait(false);
    return LibaioCalls::submit(context, count, requests);
  }

  std::shared_ptr<State> state = std::make_shared<State>();
};

TEST_CASE("a write is a call of its own, reads that are ready together share one") {
  const Slots slots{8};
  for (const auto& [direction, expected] : {std::pair{IoDirection::write, 8}, std::pair{IoDirection::read, 2}}) {
    const CountedCalls calls;
    BasicLibaioEngine<CountedCalls> engine{{.queue_depth = 8}, calls};
    Countdown ended{8};
    const auto submit = [&, direction = direction](std::size_t slot) {
      engine.submit(slots.request(direction, slot), [&](std::int64_t) { ended.hit(); });
    };
    const std::jthread first{[&] { submit(0); }};
    calls.state->submits.wait(0);
    for (std::size_t slot = 1; slot < 8; ++slot) submit(slot);
    calls.state->may_go = true;
    calls.state->may_go.notify_all();
    ended.wait();
    CHECK(calls.state->submits == expected);
  }
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

/// Keeps the first completion back until it is released, as a disk does that does not answer.
struct HoardingCalls : zerospan::LibaioCalls {
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    int under_way = 0;
    bool is_released = false;
    std::optional<io_event> kept{};

    void release() {
      const std::scoped_lock lock{mutex};
      is_released = true;
      changed.notify_all();
    }
  };

  int submit(io_context_t context, long count, iocb** requests) const noexcept {
    const std::scoped_lock lock{state->mutex};
    const int accepted = LibaioCalls::submit(context, count, requests);
    state->under_way += std::max(accepted, 0);
    state->changed.notify_all();
    return accepted;
  }
  int get_events(io_context_t context, long, io_event* events) const noexcept {
    {
      std::unique_lock lock{state->mutex};
      state->changed.wait(lock, [&] { return state->under_way > 0 || (state->is_released && state->kept); });
      if (state->under_way == 0) {
        *events = *state->kept;
        return 1;
      }
    }
    const int ended = LibaioCalls::get_events(context, 1, events);
    const std::scoped_lock lock{state->mutex};
    state->under_way -= std::max(ended, 0);
    if (ended != 1 || state->kept) return ended;
    state->kept = *events;
    return 0;
  }

  std::shared_ptr<State> state = std::make_shared<State>();
};

TEST_CASE("a completion that never comes holds up nobody but the end of the engine") {
  const HoardingCalls calls;
  zerospan_test::check_lost_completion<BasicLibaioEngine<HoardingCalls>>(calls, [&] { calls.state->release(); });
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
