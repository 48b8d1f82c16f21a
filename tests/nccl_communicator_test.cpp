#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/collective_exercise.hpp"
#include "support/fake_gpu.hpp"
#include "support/fake_gpu_runtime.hpp"
#include "support/fake_nccl.hpp"
#include "support/fake_nccl_ranks.hpp"
#include "support/fake_place.hpp"
#include "support/figures.hpp"
#include "support/forked.hpp"
#include "support/process_limits.hpp"

#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/kernels/convert.hpp>

namespace {

using exercise::Buffer;
using exercise::Outcome;
using zerospan::Bytes;
using zerospan::NcclOptions;
using zerospan::NcclReductions;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan::ThreadExchange;
using zerospan_test::FakeGpu;
using zerospan_test::FakeStreamOwner;
using zerospan_test::hasty;
using zerospan_test::patient;
using zerospan_test::run_on_fake_nccl;
using zerospan_test::StreamPlace;
using zerospan_test::Told;
using Memory = zerospan_test::FakeMemory;
using namespace std::chrono_literals;

template <class Api = fake::Api>
using Communicator = zerospan_test::FakeNccl<Api>;

static_assert(zerospan::TrainingCommunicator<Communicator<>> && zerospan::ReportsFailures<Communicator<>> &&
              zerospan::RegistersMemory<Communicator<>> && zerospan::VerifiesCalls<Communicator<>>);
static_assert(!std::is_copy_constructible_v<Communicator<>>);

using BoardlessExchange = zerospan::CommunicatorExchange<ThreadCommunicator>;
static_assert(zerospan::DuplicatesExchange<BoardlessExchange> && zerospan::AbortsExchange<BoardlessExchange> &&
              !zerospan::PostsToBoard<BoardlessExchange>);

/// "RankFailedError 1: ..." of what the call throws.
template <class F>
std::string thrown_by(F call) {
  const auto text = [](const char* name, const zerospan::CommunicationError& e) {
    return name + (" " + std::to_string(e.culprit().value) + ": ") + e.what();
  };
  try {
    call();
  } catch (const zerospan::RankFailedError& e) {
    return text("RankFailedError", e);
  } catch (const zerospan::RankTimeoutError& e) {
    return text("RankTimeoutError", e);
  } catch (const zerospan::DivergenceError& e) {
    return text("DivergenceError", e);
  } catch (const zerospan::NcclError& e) {
    return "NcclError " + std::to_string(e.code()) + ": " + e.what();
  } catch (const zerospan::ConfigurationError& e) {
    return std::string{"ConfigurationError: "} + e.what();
  }
  return "nothing";
}

std::string thrown(const std::exception_ptr& error) {
  return thrown_by([&] { std::rethrow_exception(error); });
}

bool begins_with(const std::string& text, const std::string& beginning) { return text.starts_with(beginning); }
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A gather that every rank calls alike, unless it is told to differ.
template <class C>
void gather(C& communicator, StreamPlace& place, Memory& buffer, const char* name = "w", std::size_t shard = 16) {
  const zerospan::GatherPart part{buffer.data(), shard};
  communicator.all_gather({place.stream(), name}, std::span{&part, 1});
}

std::vector<Outcome> expected(int size, std::uint32_t octaves = 24) {
  return zerospan::run_ranks(size, [&](ThreadCommunicator communicator) {
    exercise::HostPlace place;
    return exercise::Exercise{communicator, place, octaves}.run();
  });
}

void check_equal(const std::vector<Outcome>& outcomes, const std::vector<Outcome>& others) {
  REQUIRE(outcomes.size() == others.size());
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    CHECK(outcomes[rank].results == others[rank].results);
    CHECK(outcomes[rank].integers == others[rank].integers);
  }
}

}  // namespace

TEST_CASE("sums in rank order have the bits of other communicators, however small the scratch memory") {
  for (const int size : {1, 2, 3}) {
    const auto bits = expected(size);
    for (const std::size_t scratch : {std::size_t{3} * 64 * 4, std::size_t{16} << 10, std::size_t{32} << 20}) {
      CAPTURE(size);
      CAPTURE(scratch);
      NcclOptions options = patient;
      options.scratch = Bytes{scratch};
      check_equal(run_on_fake_nccl(size, options,
                                   [](auto& c, auto& place, auto&) {
                                     return exercise::Exercise{c, place}.run();
                                   }),
                  bits);
    }
  }
}

TEST_CASE("NCCL's own sums come close, and those that change the type are in rank order") {
  constexpr int size = 3;
  constexpr std::uint32_t octaves = 2;
  const auto exact = expected(size, octaves);
  NcclOptions options = patient;
  options.reductions = NcclReductions::nccl;
  const auto outcomes = run_on_fake_nccl(size, options, [&](auto& c, auto& place, auto&) {
    return exercise::Exercise{c, place, octaves}.run();
  });
  std::size_t differing = 0;
  for (std::size_t rank = 0; rank < size; ++rank) {
    CHECK(outcomes[rank].integers == exact[rank].integers);
    for (std::size_t i = 0; i < exact[rank].results.size(); ++i) {
      const Buffer& a = outcomes[rank].results[i];
      const Buffer& b = exact[rank].results[i];
      REQUIRE(a.size() == b.size());
      if (a == b) continue;
      ++differing;
      const auto type = exact[rank].types[i];
      std::vector<float> x(a.size() / element_bytes(type));
      std::vector<float> y(x.size());
      zerospan::to_float(type, a.data(), x.data(), x.size());
      zerospan::to_float(type, b.data(), y.data(), y.size());
      const float tolerance = type == zerospan::ElementType::float32 ? 1e-5F : 0.1F;
      for (std::size_t k = 0; k < x.size(); ++k) REQUIRE(std::abs(x[k] - y[k]) <= tolerance);
    }
  }
  CHECK(differing > 0);
}

TEST_CASE("a duplicate is independent, by splitting and by a new id") {
  const auto use = [](auto& c, StreamPlace& place, fake::World& world) {
    auto twin = c.duplicate();
    auto third = twin.duplicate();
    Memory& a = place.buffer(32);
    Memory& b = place.buffer(32);
    gather(c, place, a, "a");
    gather(twin, place, b, "b");
    gather(third, place, b, "c");
    c.verify();
    twin.verify();
    place.synchronize();
    return std::pair{twin.rank().value * 10 + third.size(), world.communicators.load() > 0};
  };
  CHECK(run_on_fake_nccl(2, patient, use) == std::vector<std::pair<int, bool>>{{2, true}, {12, true}});
  CHECK(run_on_fake_nccl<fake::ApiWithoutSplits>(2, patient, use) ==
        std::vector<std::pair<int, bool>>{{2, true}, {12, true}});
  CHECK(run_on_fake_nccl<fake::Api, BoardlessExchange>(2, patient, use).size() == 2);
}

TEST_CASE("a communicator of the host's is duplicated, and stays the host's") {
  const auto world = std::make_shared<fake::World>();
  zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    StreamPlace place;
    fake::Api api{world, place.gpu_};
    ThreadExchange exchange{std::move(threads)};
    fake::Api::Communicator host{};
    api.create(host, 2, fake::Api::UniqueId{77}, exchange.rank());
    {
      auto c = Communicator<>::duplicate_of(host, exchange.duplicate(), patient, api);
      c.barrier({place.stream(), "barrier"});
    }
    CHECK(!host->aborted);
    api.destroy(host);

    fake::Api::Communicator stranger{};
    api.create(stranger, 3, fake::Api::UniqueId{78}, exchange.rank());
    CHECK(begins_with(thrown_by([&] { Communicator<>::duplicate_of(stranger, exchange.duplicate(), patient, api); }),
                      "ConfigurationError: the exchange of bytes has rank"));
    api.destroy(stranger);
  });
  CHECK(world->communicators == 0);
}

TEST_CASE("a collective returns before it is done") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, auto&) {
    std::promise<void> gate;
    place.enqueue([opened = gate.get_future().share()] { opened.wait(); });
    Memory& buffer = place.buffer(32);
    std::ranges::fill(buffer.bytes().subspan(static_cast<std::size_t>(c.rank().value) * 16, 16), std::byte{1});
    gather(c, place, buffer);
    CHECK(std::ranges::count(buffer.bytes(), std::byte{1}) == 16);
    gate.set_value();
    place.synchronize();
    CHECK(std::ranges::count(buffer.bytes(), std::byte{1}) == 32);
  });
}

TEST_CASE("registered memory is registered with every duplicate, until it ends") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, fake::World& world) {
    Memory& arena = place.buffer(64);
    c.register_memory(arena.data(), Bytes{arena.size()});
    {
      auto twin = c.duplicate();
      twin.register_memory(arena.data(), Bytes{arena.size()});  // it is already
      twin.barrier({place.stream(), "all have registered"});
      CHECK(world.registrations == 4);
      twin.barrier({place.stream(), "all have looked"});
    }
    c.barrier({place.stream(), "all have ended their duplicates"});
    CHECK(world.registrations == 2);
    c.barrier({place.stream(), "all have looked"});
  });
}

TEST_CASE("an aborted rank's peers are told before their communicator ends, and fail from then on") {
  run_on_fake_nccl(3, patient, [](auto& c, StreamPlace& place, fake::World& world) {
    auto twin = c.duplicate();
    std::atomic<bool> was_whole = false;
    std::promise<std::exception_ptr> told;
    twin.on_failure([&](const std::exception_ptr& error) {
      was_whole = !world.has_ended(twin.rank());
      told.set_value(error);
    });
    Memory& buffer = place.buffer();
    thrown_by([&] { c.barrier({place.stream(), "all listen"}); });  // the failure comes here or later
    if (c.rank() == Rank{1}) {
      c.abort("out of luck");
    } else {
      thrown_by([&] { gather(twin, place, buffer); });  // or it hangs on the stream
    }
    const std::string text = thrown(told.get_future().get());
    CHECK(text == "RankFailedError 1: rank 1 failed (out of luck)");
    CHECK(was_whole);
    CHECK(thrown_by([&] { gather(c, place, buffer); }) == text);
    CHECK(thrown_by([&] { c.verify(); }) == text);
    CHECK(thrown_by([&] { static_cast<void>(twin.duplicate()); }) == text);
    place.synchronize();  // what hung has been aborted
  });
}

TEST_CASE("a rank that waits on the host is woken by another one's abort") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, auto&) {
    const std::string text = thrown_by([&] {
      c.verify();  // both have come this far
      if (c.rank() == Rank{0}) c.abort("no more");
      c.barrier({place.stream(), "barrier"});
    });
    CHECK(text == "RankFailedError 0: rank 0 failed (no more)");
  });
}

TEST_CASE("a rank that listens late is told all the same") {
  run_on_fake_nccl(1, patient, [](auto& c, StreamPlace&, auto&) {
    c.abort("early");
    CHECK(thrown(Told{c}.wait()) == "RankFailedError 0: rank 0 failed (early)");
    CHECK(thrown(Told{c}.wait()) == "RankFailedError 0: rank 0 failed (early)");
  });
}

TEST_CASE("after the deadline every rank knows who did not arrive, and where all were") {
  run_on_fake_nccl(3, hasty, [](auto& c, StreamPlace& place, auto&) {
    Told told{c};
    Memory& buffer = place.buffer();
    gather(c, place, buffer, "first");
    if (c.rank() != Rank{2}) gather(c, place, buffer, "second");
    const std::string text = thrown(told.wait());
    CHECK(begins_with(text,
                      "RankTimeoutError 2: rank 2 did not arrive at all-gather 'second' of 16 bytes a rank (#1) "
                      "within 500 ms; rank 0: all-gather 'second'"));
    CHECK(contains(text, "rank 2: all-gather 'first' of 16 bytes a rank (#0)"));
    CHECK(thrown_by([&] { gather(c, place, buffer); }) == text);
    c.on_failure({});
  });
}

TEST_CASE("a rank that learns of a failure by the exchange alone throws what the others do") {
  const auto world = std::make_shared<fake::World>();
  std::latch other_has_failed{1};
  const std::vector<std::string> errors = zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    StreamPlace place;
    const bool waits = threads.rank() == Rank{0};
    const NcclOptions options = waits ? hasty : NcclOptions{.timeout = 10min, .poll = 1h};
    Communicator<> c{ThreadExchange{std::move(threads)}, options, fake::Api{world, place.gpu_}};
    if (!waits) {
      other_has_failed.wait();
      return thrown_by([&] { c.verify(); });
    }
    Told told{c};
    gather(c, place, place.buffer());
    const std::string text = thrown(told.wait());
    place.synchronize();
    CHECK(begins_with(thrown_by([&] { c.verify(); }), "RankTimeoutError -1: "));
    other_has_failed.count_down();
    return text;
  });
  CHECK(begins_with(errors[0], "RankTimeoutError -1: all-gather 'w' of 16 bytes a rank (#0) did not end on rank 0"));
  CHECK(errors[1] == errors[0]);
}

TEST_CASE("without a board the deadline still ends the wait") {
  run_on_fake_nccl<fake::Api, BoardlessExchange>(2, hasty, [](auto& c, StreamPlace& place, auto&) {
    Told told{c};
    if (c.rank() == Rank{1}) {
      CHECK(begins_with(thrown_by([&] { c.verify(); }), "RankFailedError"));  // rank 0 aborts the exchange
    } else {
      Memory& buffer = place.buffer();
      gather(c, place, buffer);
    }
    const std::string text = thrown(told.wait());
    if (c.rank() == Rank{0}) {
      CHECK(text == "RankTimeoutError -1: all-gather 'w' of 16 bytes a rank (#0) did not end on rank 0 within 500 ms");
    }
    c.on_failure({});
  });
}

TEST_CASE("work of the host before a collective does not count against its deadline") {
  run_on_fake_nccl(2, hasty, [](auto& c, StreamPlace& place, auto&) {
    std::promise<void> gate;
    place.enqueue([opened = gate.get_future().share()] { opened.wait(); });
    Memory& buffer = place.buffer();
    gather(c, place, buffer);
    const auto end = std::chrono::steady_clock::now() + 3 * hasty.timeout;
    while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
    gate.set_value();
    place.synchronize();
    CHECK_NOTHROW(c.verify());
  });
}

TEST_CASE("a rank that has left is not waited for") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, auto&) {
    if (c.rank() == Rank{0}) return;
    Told told{c};
    Memory& buffer = place.buffer();
    thrown_by([&] { gather(c, place, buffer); });  // or it hangs on the stream
    CHECK(thrown(told.wait()) ==
          "RankFailedError 0: rank 0 returned while rank 1 waits in all-gather 'w' of 16 bytes a rank (#0)");
    c.on_failure({});
  });
}

TEST_CASE("ranks that call different collectives find out from the board") {
  run_on_fake_nccl(3, patient, [](auto& c, StreamPlace& place, auto&) {
    Told told{c};
    Memory& buffer = place.buffer();
    if (c.rank() == Rank{1}) {
      thrown_by([&] { gather(c, place, buffer, "w", 24); });
    } else {
      thrown_by([&] { gather(c, place, buffer, "w", 16); });
    }
    const std::string text = thrown(told.wait());
    CHECK(begins_with(text, "DivergenceError 1: ranks diverge: rank 0: "));
    CHECK(contains(text, "rank 1: all-gather 'w' of 24 bytes a rank (#0)"));
    c.on_failure({});
  });
}

TEST_CASE("verify finds what a collective cannot see") {
  run_on_fake_nccl<fake::Api, BoardlessExchange>(3, patient, [](auto& c, StreamPlace& place, auto&) {
    Memory& buffer = place.buffer();
    gather(c, place, buffer);
    CHECK_NOTHROW(c.verify());
    gather(c, place, buffer, c.rank() == Rank{2} ? "another" : "one");  // nobody can see it yet
    const std::string text = thrown_by([&] { c.verify(); });
    CHECK(text ==
          "DivergenceError 2: ranks diverge: rank 0: all-gather 'one' of 16 bytes a rank (#1); rank 1: "
          "all-gather 'one' of 16 bytes a rank (#1); rank 2: all-gather 'another' of 16 bytes a rank (#1)");
    CHECK(thrown_by([&] { gather(c, place, buffer); }) == text);
    place.synchronize();
  });
}

TEST_CASE("what NCCL refuses is this rank's error, and its failure to the others") {
  const auto errors = run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, fake::World& world) {
    Told told{c};
    Memory& buffer = place.buffer();
    thrown_by([&] { c.barrier({place.stream(), "all are there"}); });  // the failure comes here or later
    if (c.rank() == Rank{0}) {
      world.failing_group = world.groups.load();
      CHECK(begins_with(thrown_by([&] { gather(c, place, buffer); }), "NcclError 2: ncclAllGather in all-gather 'w'"));
    }
    const std::string text = thrown(told.wait());
    c.on_failure({});
    return text;
  });
  CHECK(begins_with(errors[0], "NcclError 2: "));
  CHECK(begins_with(errors[1], "RankFailedError 0: rank 0 failed (ncclAllGather in all-gather 'w' of 16 bytes a rank"));
}

TEST_CASE("what NCCL finds later is told") {
  for (const auto error : {zerospan::detail::NcclResult::remote_error, zerospan::detail::NcclResult::internal_error}) {
    const auto errors = run_on_fake_nccl(2, patient, [&](auto& c, StreamPlace& place, fake::World& world) {
      Told told{c};
      thrown_by([&] { c.barrier({place.stream(), "all are there"}); });  // the failure comes here or later
      place.synchronize();  // the barrier has left the stream, and is not waited for
      if (c.rank() == Rank{1}) world.set_error(Rank{1}, error);
      const std::string text = thrown(told.wait());
      c.on_failure({});
      return text;
    });
    if (error == zerospan::detail::NcclResult::remote_error) {
      CHECK(begins_with(errors[0], "RankFailedError -1: another rank failed: no collective on rank 1"));
      CHECK(errors[1] == errors[0]);
    } else {
      CHECK(begins_with(errors[0], "RankFailedError 1: rank 1 failed (no collective on rank 1: a fake error"));
      CHECK(begins_with(errors[1], "NcclError 3: no collective on rank 1"));
    }
  }
}

TEST_CASE("mistakes are refused before anything is counted") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place, auto&) {
    CHECK(begins_with(thrown_by([&] {
                        c.barrier({zerospan::calling_thread, "b"});
                      }),
                      "ConfigurationError: the collective 'b' is to run on the calling thread"));
    CHECK(begins_with(thrown_by([&] { c.broadcast({place.stream(), "b"}, {}, Rank{2}); }), "ConfigurationError"));
    Memory& buffer = place.buffer(64);
    const zerospan::Reduction overlap{zerospan::ElementType::float32, buffer.data(), zerospan::ElementType::float32,
                                      buffer.data() + 4, 4};
    CHECK(begins_with(thrown_by([&] { c.all_reduce({place.stream(), "r"}, overlap); }), "ConfigurationError"));
    CHECK_NOTHROW(c.verify());
  });
}

TEST_CASE("options that make no sense or differ are refused on every rank") {
  const auto refusal = [](auto options_of) {
    return zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
      const int rank = threads.rank().value;
      return thrown_by([&] {
        Communicator<> c{ThreadExchange{std::move(threads)}, options_of(rank),
                         fake::Api{std::make_shared<fake::World>(), std::make_shared<FakeGpu>()}};
      });
    });
  };
  for (const std::string& text :
       refusal([](int rank) { return NcclOptions{.scratch = Bytes{rank == 0 ? 4096U : 8192U}}; })) {
    CHECK(begins_with(text, "ConfigurationError: rank 1 was given other NCCL options than rank 0"));
  }
  for (const std::string& text : refusal([](int) { return NcclOptions{.scratch = Bytes{511}}; })) {
    CHECK(begins_with(text, "ConfigurationError: sums over 2 ranks need scratch memory of 512 bytes at least"));
  }
  for (const std::string& text : refusal([](int) { return NcclOptions{.timeout = 0ms}; })) {
    CHECK(begins_with(text, "ConfigurationError: the timeout and the poll"));
  }
}

TEST_CASE("sums and means of the host's figures are those in rank order") {
  run_on_fake_nccl(3, patient, [](auto& c, StreamPlace& place) {
    CHECK(zerospan_test::figures_are_right(c, c.rank().value, std::array{0, 1, 2}, place.stream()));
  });
}

TEST_CASE("a communicator is of no use in a forked process, and of all its use in the one that forked") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place) {
    c.barrier({place.stream(), "start"});
    if (c.rank() == Rank{0}) {
      CHECK(zerospan_test::is_true_in_fork([&] {
        const auto is_told = [](auto call) {
          return thrown_by(call) ==
                 "RankFailedError 0: rank 0 uses a communicator after a fork: it stays with the "
                 "process that made it";
        };
        c.abort("the child's own business");
        return is_told([&] {
                 c.barrier({place.stream(), "in the child"});
               }) &&
               is_told([&] { c.duplicate(); }) && is_told([&] {
                 c.split({0, 0});
               }) &&
               is_told([&] { c.verify(); }) && is_told([&] { c.on_failure({}); });
      }));
    }
    c.barrier({place.stream(), "end"});
  });
}

#if !defined(ZEROSPAN_SANITIZED)
TEST_CASE("ranks whose watching threads cannot be started say so, and none waits for the others") {
  const auto world = std::make_shared<fake::World>();
  const auto ends = zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    StreamPlace place;
    threads.barrier({zerospan::calling_thread, "all ranks are threads"});
    std::optional<zerospan_test::NoMoreThreads> limit;
    if (threads.rank() == Rank{1}) limit.emplace();
    threads.barrier({zerospan::calling_thread, "the limit stands"});
    return thrown_by([&] {
      Communicator<>{ThreadExchange{std::move(threads)}, patient, fake::Api{world, place.gpu_}};
    });
  });
  for (const std::string& end : ends) {
    CHECK(contains(end, "failed (the thread that watches over its communicators could not be started: "));
  }
}
#endif
