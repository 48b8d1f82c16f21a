#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/device/detail/stream_lanes.hpp>
#include <zerospan/device/stream_device.hpp>
#include <zerospan/device/stream_runtime.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_gpu_run.hpp"
#include "support/fake_gpu_runtime.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Completion;
using zerospan::Lane;
using zerospan::OperationKind;
using zerospan::Promise;
using zerospan::StreamRef;
using zerospan_test::FakeDevice;
using zerospan_test::FakeGpu;
using zerospan_test::FakeGpuError;
using zerospan_test::FakeRuntime;
using zerospan_test::FakeStream;
using zerospan_test::FakeStreamOwner;

using Lanes = zerospan::detail::StreamLanes<FakeRuntime>;

// Near misses of a runtime: no pinned memory, a query that answers nothing, streams that are not references.
struct WithoutPinnedMemory : FakeRuntime {
  void allocate_host(zerospan::Bytes) = delete;
};
struct AnswersNothing : FakeRuntime {
  void is_done(zerospan_test::FakeEvent&) {}
};
struct StreamsOfTheirOwn : FakeRuntime {
  using stream_type = int;
};
static_assert(zerospan::StreamRuntime<FakeRuntime>);
static_assert(!zerospan::StreamRuntime<WithoutPinnedMemory>);
static_assert(!zerospan::StreamRuntime<AnswersNothing>);
static_assert(!zerospan::StreamRuntime<StreamsOfTheirOwn>);
static_assert(zerospan::DeviceLanes<Lanes> && zerospan::Device<FakeDevice>);

/// Something that work on a stream waits for.
class Gate {
 public:
  void open() { promise_.set_value(); }
  auto closed() const {
    return [future = future_] { future.wait(); };
  }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future().share();
};

struct Rig {
  std::shared_ptr<FakeGpu> gpu = std::make_shared<FakeGpu>();
  FakeDevice device{FakeRuntime{gpu}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::Timeline timeline;
  Lanes lanes{device, {.rank = {}, .timeout = std::chrono::seconds{30}, .timeline = &timeline, .on_failure = {}}};
  FakeStreamOwner host{gpu};

  StreamRef stream() const { return StreamRef{host.ref()}; }

  /// Posts work for the device that does `action` there.
  template <class Action>
  Completion post(Lane lane, std::vector<Completion> after, Action action) {
    return lanes.post(lane, std::move(after), {OperationKind::copy, "x", 8}, [action](FakeStream& on) -> Completion {
      on.enqueue(action);
      return {};
    });
  }
  void wait(const Completion& completion) {
    lanes.wait(zerospan::calling_thread, completion, {OperationKind::copy, "x"});
  }
};

TEST_CASE("work for the device is enqueued before what it waits for has ended, and runs after it") {
  Rig rig;
  Gate gate;
  std::vector<int> order;
  std::promise<void> enqueued;
  const Completion first = rig.post(Lane::copy, {}, [&, wait = gate.closed()] {
    wait();
    order.push_back(1);
  });
  const Completion second =
      rig.lanes.post(Lane::communicate, {first}, {OperationKind::all_gather, "y"}, [&](FakeStream& on) -> Completion {
        on.enqueue([&] { order.push_back(2); });
        enqueued.set_value();
        return {};
      });
  enqueued.get_future().wait();  // the first has not ended
  CHECK_FALSE(first.done());
  CHECK_FALSE(second.done());
  gate.open();
  rig.wait(second);
  CHECK(order == std::vector{1, 2});
  rig.wait(first);  // it has ended, and is known to have
}

TEST_CASE("work for the host begins when what it waits for has ended") {
  Rig rig;
  Gate gate;
  bool has_ended = false;
  const Completion first = rig.post(Lane::copy, {}, [&, wait = gate.closed()] {
    wait();
    has_ended = true;
  });
  bool saw_the_end = false;
  const Completion second = rig.lanes.post_host(Lane::update, {first}, {OperationKind::update, "y"}, [&] {
    saw_the_end = has_ended;
    return Completion{};
  });
  gate.open();
  rig.wait(second);
  CHECK(saw_the_end);
}

TEST_CASE("the host's stream waits, the host's thread does not") {
  Rig rig;
  Gate gate;
  int value = 0;
  int seen = 0;
  const Completion copied = rig.post(Lane::copy, {}, [&, wait = gate.closed()] {
    wait();
    value = 7;
  });
  rig.lanes.wait(rig.stream(), copied, {OperationKind::copy, "x"});
  CHECK_FALSE(copied.done());
  rig.host.ref().enqueue([&] { seen = value; });
  const Completion used = rig.lanes.record(rig.stream());
  CHECK_FALSE(used.done());
  gate.open();
  rig.wait(used);
  CHECK(seen == 7);
  CHECK(rig.lanes.record(zerospan::calling_thread).done());
}

TEST_CASE("a lane waits for what the host has recorded on its stream") {
  Rig rig;
  Gate gate;
  std::vector<int> order;
  rig.host.ref().enqueue([&, wait = gate.closed()] {
    wait();
    order.push_back(1);
  });
  const Completion used = rig.lanes.record(rig.stream());
  const Completion next = rig.post(Lane::copy, {used}, [&] { order.push_back(2); });
  gate.open();
  rig.wait(next);
  CHECK(order == std::vector{1, 2});
}

TEST_CASE("work that starts something besides ends with it, and whoever comes after waits for both") {
  Rig rig;
  Promise transfer{"transfer"};
  const Completion first =
      rig.lanes.post(Lane::read, {}, {OperationKind::read, "x"}, [&](FakeStream&) { return transfer.completion(); });
  bool has_begun = false;
  const Completion second = rig.post(Lane::copy, {first}, [&] { has_begun = true; });
  rig.wait(rig.post(Lane::update, {}, [] {}));
  CHECK_FALSE(has_begun);
  CHECK_FALSE(first.done());
  transfer.succeed();
  rig.wait(second);
  CHECK(has_begun);
}

TEST_CASE("what a device lane throws stops what comes after it, and is told by every call") {
  Rig rig;
  const Completion failed = rig.lanes.post(Lane::copy, {}, {OperationKind::copy, "x"},
                                           [](FakeStream&) -> Completion { throw std::runtime_error{"no"}; });
  bool has_run = false;
  const Completion device = rig.post(Lane::communicate, {failed}, [&] { has_run = true; });
  const Completion host = rig.lanes.post_host(Lane::update, {failed}, {OperationKind::update, "y"}, [&] {
    has_run = true;
    return Completion{};
  });
  CHECK_THROWS_WITH_AS(rig.wait(device), "no", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.wait(host), "no", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.lanes.check(), "no", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.lanes.wait(rig.stream(), device, {OperationKind::copy, "x"}), "no", std::runtime_error);
  CHECK(rig.lanes.drain());
  CHECK_FALSE(has_run);
}

TEST_CASE("a device that breaks down is told, and nothing hangs") {
  Rig rig;
  Gate gate;
  const Completion running = rig.post(Lane::copy, {}, gate.closed());
  rig.gpu->break_down();
  gate.open();
  CHECK_THROWS_AS(rig.wait(running), FakeGpuError);
  CHECK_THROWS_AS(rig.lanes.check(), FakeGpuError);
  CHECK(rig.lanes.drain());
}

TEST_CASE("counters and timeline tell what the device did, in its own time") {
  Rig rig;
  for (int i = 0; i < 3; ++i) rig.wait(rig.post(Lane::copy, {}, [] {}));
  CHECK(rig.lanes.counters()[OperationKind::copy].count == 3);
  CHECK(rig.lanes.counters()[OperationKind::copy].bytes == 24);
  std::int64_t last = 0;
  int copies = 0;
  for (const zerospan::Span& span : rig.timeline.spans()) {
    if (span.track != zerospan::lane_names[static_cast<std::size_t>(Lane::copy)]) continue;
    CHECK(span.begin >= last);
    CHECK(span.end >= span.begin);
    last = span.end;
    ++copies;
  }
  CHECK(copies == 3);
}

TEST_CASE("whichever call of the runtime fails, training says so and ends") {
  zerospan_test::Configuration c;
  c.parameters = c.gradients = zerospan_test::Place::host;
  c.optimizer = zerospan_test::Place::device;
  c.training.ranks = 2;
  c.training.micro_batches = 2;
  c.steps = 1;
  const auto expected = zerospan_test::train_on_fake_gpu(c);
  std::size_t failures = 0;
  bool has_passed = false;
  for (std::uint64_t nth = 1; !has_passed; nth += 1 + nth / 8) {
    const auto gpu = std::make_shared<FakeGpu>();
    gpu->fail_from(nth);
    CAPTURE(nth);
    try {
      const auto ranks = zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator threads) {
        return zerospan_test::train_on_fake_gpu(gpu, std::move(threads), c);
      });
      CHECK(zerospan_test::join_results(ranks) == expected);
      has_passed = true;
    } catch (const FakeGpuError& error) {
      CHECK(std::string{error.what()}.find("the fake GPU failed in ") != std::string::npos);
      ++failures;
    }
  }
  CHECK(failures > 20);
}

}  // namespace
