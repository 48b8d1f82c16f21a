#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/host_lanes.hpp>
#include <zerospan/device/host_device.hpp>

namespace {

using namespace std::chrono_literals;
using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::Completion;
using zerospan::HostDevice;
using zerospan::Lane;
using zerospan::LaneCounters;
using zerospan::LaneOptions;
using zerospan::Operation;
using zerospan::OperationKind;
using zerospan::Promise;
using zerospan::Rank;
using zerospan::Span;
using zerospan::StreamRef;
using zerospan::Timeline;
using zerospan::TimeoutError;
using zerospan::detail::HostLanes;
using zerospan::detail::HostStream;

constexpr std::array all_lanes{Lane::read,        Lane::copy,   Lane::communicate,
                               Lane::read_states, Lane::update, Lane::write};

// Near misses: a drain that may throw, work that returns nothing, no way to record, no error to check.
struct SoundLanes {
  using stream_type = StreamRef;
  static constexpr bool is_unified = true;
  Completion post(Lane, std::vector<Completion>, const Operation&, std::function<Completion(StreamRef&)>);
  Completion post_host(Lane, std::vector<Completion>, const Operation&, std::function<Completion()>);
  void wait(StreamRef, const Completion&, const Operation&);
  Completion record(StreamRef);
  void check() const;
  void fail(const std::exception_ptr&);
  void enter();
  void leave();
  LaneCounters counters() const;
  bool drain() noexcept;
};
struct ThrowingDrain : SoundLanes {
  bool drain();
};
struct PostsNothing : SoundLanes {
  void post(Lane, std::vector<Completion>, const Operation&, std::function<Completion(StreamRef&)>);
};
struct SynchronousWork : SoundLanes {
  Completion post(Lane, std::vector<Completion>, const Operation&, void (*)(StreamRef&));
};
struct RecordsNothing : SoundLanes {
  void record(StreamRef);
};
struct WithoutCounters : SoundLanes {
  int counters() const;
};
struct WithoutCheck : SoundLanes {
  void check(int) const;
};
static_assert(zerospan::DeviceLanes<SoundLanes> && zerospan::DeviceLanes<HostLanes>);
static_assert(!zerospan::DeviceLanes<ThrowingDrain>);
static_assert(!zerospan::DeviceLanes<PostsNothing>);
static_assert(!zerospan::DeviceLanes<SynchronousWork>);
static_assert(!zerospan::DeviceLanes<RecordsNothing>);
static_assert(!zerospan::DeviceLanes<WithoutCounters>);
static_assert(!zerospan::DeviceLanes<WithoutCheck>);
static_assert(!std::is_copy_constructible_v<HostLanes> && !std::is_move_constructible_v<HostLanes>);

/// What happened, in order.
class Log {
 public:
  void add(std::string entry) {
    const std::scoped_lock lock{mutex_};
    entries_.push_back(std::move(entry));
  }
  std::vector<std::string> entries() const {
    const std::scoped_lock lock{mutex_};
    return entries_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> entries_;
};
using Entries = std::vector<std::string>;

struct Rig {
  explicit Rig(std::chrono::milliseconds timeout = 60s)
      : lanes{std::in_place, device,
              LaneOptions{Rank{2}, timeout, &timeline, [this](const std::string& reason) { failures.add(reason); }}} {}

  Completion post(Lane lane, std::string_view name, std::vector<Completion> after = {}) {
    return (*lanes).post(lane, std::move(after), {OperationKind::copy, name, 8}, [this, name](HostStream& stream) {
      CHECK(stream.is_calling_thread());
      log.add(std::string{name});
      return Completion{};
    });
  }

  /// Work that throws.
  Completion post_failure(Lane lane, std::string_view name, std::string what) {
    return (*lanes).post(lane, {}, {OperationKind::update, name},
                         [what](HostStream&) -> Completion { throw std::runtime_error{what}; });
  }

  /// A transfer that ends with `promise`.
  Completion post_transfer(Lane lane, std::string_view name, const Promise& promise, std::size_t bytes = 0) {
    return (*lanes).post(lane, {}, {OperationKind::read, name, bytes},
                         [end = promise.completion()](HostStream&) { return end; });
  }

  void wait(const Completion& completion) {
    lanes->wait(calling_thread, completion, {OperationKind::copy, "the test"});
  }

  Log log;
  Log failures;
  Timeline timeline;
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  std::optional<HostLanes> lanes;
};

TEST_CASE("items of a lane start in the order in which they were posted") {
  constexpr std::size_t count = 200;
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  std::array<std::vector<std::size_t>, zerospan::lane_count> started;  // each written by its own lane alone
  HostLanes lanes{device, {}};
  for (std::size_t i = 0; i < count; ++i) {
    for (const Lane lane : all_lanes) {
      lanes.post(lane, {}, {OperationKind::update, "x"}, [&started, lane, i](HostStream&) {
        started[static_cast<std::size_t>(lane)].push_back(i);
        return Completion{};
      });
    }
  }
  lanes.drain();
  for (const auto& order : started) {
    REQUIRE(order.size() == count);
    CHECK(std::ranges::is_sorted(order));
  }
}

TEST_CASE("an item waits for what it comes after, on other lanes too") {
  Rig rig;
  Promise gate{"gate"};
  const Completion read = rig.post(Lane::read, "read", {gate.completion()});
  const Completion copy = rig.post(Lane::copy, "copy", {read});
  const Completion update = rig.post(Lane::update, "update", {copy, read, Completion{}});
  const Completion write = rig.post(Lane::write, "write", {update});
  rig.wait(rig.post(Lane::communicate, "another"));  // others go on
  CHECK_FALSE(read.done());
  CHECK_FALSE(write.done());
  rig.log.add("gate");
  gate.succeed();
  rig.wait(write);
  CHECK(rig.log.entries() == Entries{"another", "gate", "read", "copy", "update", "write"});
  CHECK(update.done());
}

TEST_CASE("a completion tells what it is") {
  Rig rig;
  const std::string temporary{"blocks.0.mlp.up"};
  CHECK(rig.post(Lane::copy, temporary).label() == "copy of blocks.0.mlp.up");
  rig.lanes->drain();
}

TEST_CASE("a transfer under way does not block its lane") {
  Rig rig;
  Promise slow{"slow"};
  const Completion transfer = rig.post_transfer(Lane::read, "slow", slow);
  rig.wait(rig.post(Lane::read, "next"));
  CHECK_FALSE(transfer.done());
  const Completion dependent = rig.post(Lane::copy, "dependent", {transfer});
  std::jthread device{[&] { slow.succeed(); }};
  rig.wait(dependent);
  CHECK(transfer.done());
  CHECK_FALSE(transfer.error());
  CHECK(rig.log.entries() == Entries{"next", "dependent"});
}

TEST_CASE("transfers end in any order") {
  Rig rig;
  Promise first{"first"};
  Promise second{"second"};
  const Completion a = rig.post_transfer(Lane::read, "first", first);
  const Completion b = rig.post_transfer(Lane::read, "second", second);
  second.succeed();
  rig.wait(b);
  CHECK_FALSE(a.done());
  first.succeed();
  rig.wait(a);
}

TEST_CASE("an error stops everything that has not begun, and is told once") {
  Rig rig;
  const Completion before = rig.post(Lane::copy, "before");
  rig.wait(before);
  const Completion failed = rig.post_failure(Lane::update, "w", "disk on fire");
  CHECK_THROWS_WITH_AS(failed.wait(), "disk on fire", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.lanes->check(), "disk on fire", std::runtime_error);
  const Completion dependent = rig.post(Lane::copy, "dependent", {before, failed});
  const Completion independent = rig.post(Lane::read, "independent");
  const Completion late_failure = rig.post_failure(Lane::update, "w", "another fire");
  CHECK_THROWS_WITH_AS(rig.wait(dependent), "disk on fire", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.wait(independent), "disk on fire", std::runtime_error);
  CHECK_THROWS_WITH_AS(late_failure.wait(), "disk on fire", std::runtime_error);
  CHECK_THROWS_WITH_AS(rig.wait(before), "disk on fire", std::runtime_error);  // although it has ended well itself
  CHECK_FALSE(before.error());
  rig.lanes->drain();
  CHECK_THROWS_WITH_AS(rig.lanes->check(), "disk on fire", std::runtime_error);
  CHECK(rig.log.entries() == Entries{"before"});
  CHECK(rig.failures.entries() == Entries{"disk on fire"});
}

TEST_CASE("an item whose predecessor fails later is not run") {
  Rig rig;
  Promise transfer{"transfer"};
  const Completion read = rig.post_transfer(Lane::read, "w", transfer);
  const Completion copy = rig.post(Lane::copy, "copy", {read});
  const Completion gather = rig.post(Lane::communicate, "gather", {copy});
  transfer.fail(std::make_exception_ptr(zerospan::IoError{5, "read", "/a/file", 512, 4096, {}}));
  CHECK_THROWS_AS(gather.wait(), zerospan::IoError);
  CHECK_THROWS_AS(copy.wait(), zerospan::IoError);
  CHECK_THROWS_AS(rig.lanes->check(), zerospan::IoError);
  rig.lanes->drain();
  CHECK(rig.log.entries().empty());
  REQUIRE(rig.failures.entries().size() == 1);
  CHECK(rig.failures.entries()[0].find("read of 4096 bytes at offset 512 of /a/file") != std::string::npos);
}

TEST_CASE("of several errors the first is kept") {
  Rig rig;
  Promise a{"a"};
  Promise b{"b"};
  const Completion first = rig.post_transfer(Lane::read, "a", a);
  const Completion second = rig.post_transfer(Lane::write, "b", b);
  rig.wait(rig.post(Lane::read, "begun"));
  rig.wait(rig.post(Lane::write, "begun"));
  b.fail(std::make_exception_ptr(std::runtime_error{"b failed"}));
  a.fail(std::make_exception_ptr(std::runtime_error{"a failed"}));
  CHECK_THROWS_WITH_AS(rig.lanes->check(), "b failed", std::runtime_error);
  CHECK_THROWS_WITH_AS(first.wait(), "a failed", std::runtime_error);
  CHECK_THROWS_WITH_AS(second.wait(), "b failed", std::runtime_error);
  CHECK(rig.failures.entries() == Entries{"b failed"});
}

TEST_CASE("an error may come from outside, and need not be a std::exception") {
  Rig rig;
  rig.lanes->fail(std::make_exception_ptr(42));
  CHECK_THROWS_AS(rig.lanes->check(), int);
  CHECK_THROWS_AS(rig.post(Lane::copy, "late").wait(), int);
  rig.lanes->fail(std::make_exception_ptr(std::runtime_error{"later"}));
  CHECK_THROWS_AS(rig.lanes->check(), int);
  CHECK(rig.failures.entries() == Entries{"an error that is no std::exception"});
}

TEST_CASE("an error has been told before anybody sees it here") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  std::optional<HostLanes> lanes;
  int told = 0;
  const auto tell = [&](const std::string&) {
    ++told;
    lanes->check();
    lanes->fail(std::make_exception_ptr(std::runtime_error{"what follows from it"}));
  };
  lanes.emplace(device, LaneOptions{Rank{0}, 1min, nullptr, tell});
  lanes->fail(std::make_exception_ptr(std::runtime_error{"disk on fire"}));
  CHECK_THROWS_WITH_AS(lanes->check(), "disk on fire", std::runtime_error);
  CHECK(told == 1);
}

TEST_CASE("without anybody to tell, an error is kept all the same") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  HostLanes lanes{device, {}};
  lanes.check();
  const Completion failed = lanes.post(Lane::copy, {}, {OperationKind::copy, "w"},
                                       [](HostStream&) -> Completion { throw std::runtime_error{"disk on fire"}; });
  CHECK_THROWS_WITH_AS(failed.wait(), "disk on fire", std::runtime_error);
  CHECK_THROWS_WITH_AS(lanes.check(), "disk on fire", std::runtime_error);
}

TEST_CASE("a transfer that nobody ends any more fails") {
  Rig rig;
  {
    const Promise dropped{"a lost transfer"};
    rig.wait(rig.post(Lane::read, "begun"));
    rig.post_transfer(Lane::read, "w", dropped);
  }
  rig.lanes->drain();
  CHECK_THROWS_WITH_AS(rig.lanes->check(), "a lost transfer was dropped before it ended", zerospan::Error);
}

constexpr const char* overdue = "read of w did not end within 100 ms";

TEST_CASE("the host gives up on a transfer that never ends, and is told which") {
  Promise never{"never"};
  Rig rig{100ms};
  const Completion transfer = rig.post_transfer(Lane::read, "w", never);
  CHECK_THROWS_WITH_AS(rig.wait(transfer), overdue, TimeoutError);
  CHECK_FALSE(transfer.done());
  CHECK_THROWS_WITH_AS(rig.lanes->check(), overdue, TimeoutError);
  CHECK(rig.failures.entries() == Entries{overdue});
}

TEST_CASE("lanes give up on a transfer that never ends; what waits for it fails") {
  Promise never{"never"};
  Rig rig{100ms};
  const Completion transfer = rig.post_transfer(Lane::read, "w", never);
  std::vector<Completion> dependents;
  for (int i = 0; i < 20; ++i)
    dependents.push_back(rig.post(all_lanes[1 + static_cast<std::size_t>(i) % 4], "x", {transfer}));
  for (const Completion& dependent : dependents) CHECK_THROWS_WITH_AS(dependent.wait(), overdue, TimeoutError);
  rig.lanes->drain();
  CHECK(rig.log.entries().empty());
  CHECK(rig.failures.entries() == Entries{overdue});
}

TEST_CASE("the host waits in vain for an item behind a transfer that never ends") {
  Promise never{"never"};
  Rig rig{100ms};
  const Completion transfer = rig.post_transfer(Lane::read, "w", never);
  const Completion dependent = rig.post(Lane::copy, "x", {transfer});
  CHECK_THROWS_WITH_AS(rig.wait(dependent), overdue, TimeoutError);
}

TEST_CASE("what takes long but is no transfer has no deadline") {
  Rig rig{1ms};
  Promise gate{"gate"};
  const Completion gated = rig.post(Lane::copy, "gated", {gate.completion()});
  std::jthread opener{[&] {
    const auto until = std::chrono::steady_clock::now() + 20ms;
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    gate.succeed();
  }};
  rig.wait(gated);
  rig.lanes->check();
}

TEST_CASE("lanes are destroyed beside a transfer that never ends; it may still end later, and tells nobody") {
  for (const bool well : {true, false}) {
    CAPTURE(well);
    Promise never{"never"};
    Completion transfer;
    {
      Rig rig{50ms};
      transfer = rig.post_transfer(Lane::read, "w", never);
      rig.wait(rig.post(Lane::copy, "x"));
      rig.lanes->drain();
      rig.lanes.reset();
      CHECK(rig.failures.entries().empty());
      CHECK_FALSE(transfer.done());
    }
    if (well) {
      never.succeed();
    } else {
      never.fail(std::make_exception_ptr(std::runtime_error{"too late"}));
    }
    CHECK(transfer.done());
    CHECK(static_cast<bool>(transfer.error()) == !well);
  }
}

TEST_CASE("the destructor carries out what was posted") {
  Rig rig;
  Promise gate{"gate"};
  for (int i = 0; i < 50; ++i) rig.post(all_lanes[static_cast<std::size_t>(i) % 5], "x", {gate.completion()});
  std::jthread opener{[&] { gate.succeed(); }};
  rig.lanes.reset();
  CHECK(rig.log.entries().size() == 50);
}

TEST_CASE("drain waits for transfers") {
  Rig rig;
  Promise slow{"slow"};
  const Completion transfer = rig.post_transfer(Lane::write, "w", slow);
  std::jthread device{[&] { slow.succeed(); }};
  rig.lanes->drain();
  CHECK(transfer.done());
}

TEST_CASE("waiting for what is done is free, and the host's stream is always done") {
  Rig rig;
  CHECK(rig.lanes->record(calling_thread).done());
  rig.wait(Completion{});
  CHECK(rig.lanes->counters()[OperationKind::wait].count == 0);
  CHECK(rig.timeline.spans().empty());
}

TEST_CASE("operations are counted, by their kind") {
  Rig rig;
  Promise slow{"slow"};
  for (std::size_t i = 1; i <= 10; ++i) {
    rig.lanes->post(Lane::read, {}, {OperationKind::read, "w", i}, [](HostStream&) { return Completion{}; });
    rig.lanes->post(Lane::write, {}, {OperationKind::write, "w", 100}, [](HostStream&) { return Completion{}; });
  }
  rig.post_transfer(Lane::read, "slow", slow, 1000);
  slow.succeed();
  rig.lanes->drain();
  const LaneCounters counters = rig.lanes->counters();
  CHECK(counters[OperationKind::read].count == 11);
  CHECK(counters[OperationKind::read].bytes == 1055);
  CHECK(counters[OperationKind::read].seconds >= 0.0);
  CHECK(counters[OperationKind::write].count == 10);
  CHECK(counters[OperationKind::write].bytes == 1000);
  CHECK(counters[OperationKind::copy].count == 0);
}

TEST_CASE("a wait of the host is an operation of the host") {
  Rig rig;
  Promise slow{"slow"};
  const Completion transfer = rig.post_transfer(Lane::read, "w", slow);
  std::jthread device{[&] {
    rig.lanes->post(Lane::write, {}, {OperationKind::write, "x"}, [](HostStream&) { return Completion{}; }).wait();
    slow.succeed();
  }};
  rig.lanes->wait(calling_thread, transfer, {OperationKind::all_gather, "w", 77});
  const auto counters = rig.lanes->counters();
  const auto spans = rig.timeline.spans();
  const auto on_host = [](const Span& span) { return span.track == "host"; };
  const auto waits = static_cast<std::uint64_t>(std::ranges::count_if(spans, on_host));
  CHECK(waits == counters[OperationKind::wait].count);
  CHECK(counters[OperationKind::wait].bytes == 0);
  for (const Span& span : spans) {
    if (!on_host(span)) continue;
    CHECK(span.kind == "wait");
    CHECK(span.name == "w");
    CHECK(span.rank == Rank{2});
  }
}

TEST_CASE("the time between the host's calls is its compute") {
  Rig rig;
  for (int call = 0; call < 3; ++call) {
    rig.lanes->enter();
    rig.lanes->leave();
  }
  const auto spans = rig.timeline.spans();
  REQUIRE(spans.size() == 3);
  for (const Span& span : spans) {
    CHECK(span.track == "host");
    CHECK(span.kind == "compute");
    CHECK(span.bytes == 0);
  }
  CHECK(spans[0].end <= spans[1].begin);
  CHECK(spans[1].end <= spans[2].begin);
  CHECK(rig.lanes->counters()[OperationKind::compute].count == 3);
}

TEST_CASE("the timeline has a span of every operation, on its lane's track, and none of them overlap") {
  constexpr std::size_t count = 40;
  Rig rig;
  std::vector<Promise> transfers;
  for (std::size_t i = 0; i < count; ++i) transfers.emplace_back("transfer");
  for (std::size_t i = 0; i < count; ++i) {
    for (const Lane lane : all_lanes) {
      rig.lanes->post(lane, {}, {OperationKind::copy, std::string{"copy."} + std::to_string(i), i},
                      [](HostStream&) { return Completion{}; });
    }
    rig.post_transfer(Lane::read, std::string{"transfer."} + std::to_string(i), transfers[i], 1000 + i);
  }
  std::jthread device{[&] {
    for (std::size_t i = count; i-- > 0;) transfers[i].succeed();
  }};
  rig.lanes->drain();
  device.join();

  std::map<std::string_view, std::int64_t> last_end;
  std::map<std::string_view, std::size_t> spans_of_track;
  std::multiset<std::string> names;
  std::size_t bytes = 0;
  for (const Span& span : rig.timeline.spans()) {
    CHECK(span.begin >= last_end[span.track]);
    CHECK(span.end >= span.begin);
    last_end[span.track] = span.end;
    ++spans_of_track[span.track];
    names.insert(span.name);
    bytes += span.bytes;
  }
  CHECK(spans_of_track == std::map<std::string_view, std::size_t>{{"read (nc)", 2 * count},
                                                                  {"copy (cg)", count},
                                                                  {"communicate (gg)", count},
                                                                  {"read states", count},
                                                                  {"update", count},
                                                                  {"write", count}});
  CHECK(names.count("copy.7") == zerospan::lane_count);
  CHECK(names.count("transfer.39") == 1);
  CHECK(bytes == all_lanes.size() * (count * (count - 1) / 2) + count * 1000 + count * (count - 1) / 2);
}

TEST_CASE("kinds of operations and lanes have names") {
  std::set<std::string_view> names;
  for (std::size_t kind = 0; kind < zerospan::operation_kinds; ++kind) {
    names.insert(to_string(static_cast<OperationKind>(kind)));
  }
  CHECK(names.size() == zerospan::operation_kinds);
  CHECK(to_string(OperationKind::wait) == "wait");
  CHECK(to_string(OperationKind::reduce_scatter) == "reduce-scatter");
  CHECK(zerospan::lane_names[static_cast<std::size_t>(Lane::write)] == "write");
}

}  // namespace
