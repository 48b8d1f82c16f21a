#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <future>
#include <latch>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/philox.hpp>

#include "support/forked.hpp"
#include "support/heap.hpp"
#include "support/process_limits.hpp"

namespace {

using namespace std::chrono_literals;
using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::ElementType;
using zerospan::GatherPart;
using zerospan::Rank;
using zerospan::run_ranks;
using zerospan::ThreadCommunicator;

constexpr Collective named(const char* name) { return {calling_thread, name}; }

/// "DivergenceError, rank 1: <message>" of a communication error; "no error" if there was none.
template <class F>
std::string error_of(F f) {
  const auto text = [](const char* type, const zerospan::CommunicationError& error) {
    return type + std::string{", rank "} + std::to_string(error.culprit().value) + ": " + error.what();
  };
  try {
    f();
  } catch (const zerospan::RankFailedError& error) {
    return text("RankFailedError", error);
  } catch (const zerospan::RankTimeoutError& error) {
    return text("RankTimeoutError", error);
  } catch (const zerospan::DivergenceError& error) {
    return text("DivergenceError", error);
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The error that each rank's `f` ends in; none of them reaches run_ranks.
template <class F>
std::vector<std::string> errors_of_ranks(int size, F f, const zerospan::RunRanksOptions& options = {}) {
  return run_ranks(
      size, [&](ThreadCommunicator communicator) { return error_of([&] { f(communicator); }); }, options);
}

void all_gather(ThreadCommunicator& communicator, const char* name, std::span<std::byte> buffer) {
  const GatherPart part{buffer.data(), buffer.size() / static_cast<std::size_t>(communicator.size())};
  communicator.all_gather(named(name), {&part, 1});
}

/// Gathers for ever in big buffers that are freed as soon as something throws.
void gather_until_failure(ThreadCommunicator& communicator) {
  std::vector<std::byte> buffer(std::size_t{3} << 18);
  for (;;) all_gather(communicator, "weights", buffer);
}

}  // namespace

TEST_CASE("run_ranks returns what the ranks return, in rank order") {
  const auto squares = run_ranks(5, [](ThreadCommunicator c) { return c.rank().value * c.rank().value; });
  CHECK(squares == std::vector{0, 1, 4, 9, 16});
  CHECK(run_ranks(3, [](ThreadCommunicator c) { return c.rank(); })[1] == Rank{1});  // a value, of a vector that ends

  auto owners = run_ranks(2, [](ThreadCommunicator&& c) { return std::make_unique<int>(c.size()); });
  CHECK(*owners.at(0) + *owners.at(1) == 4);

  std::atomic<int> calls = 0;
  run_ranks(3, [&](auto) { ++calls; });
  CHECK(calls == 3);
}

TEST_CASE("a group without ranks, or without time, is refused") {
  const auto nothing = [](ThreadCommunicator) {};
  CHECK_THROWS_WITH_AS(run_ranks(0, nothing), "a communicator has at least one rank, not 0",
                       zerospan::ConfigurationError);
  CHECK_THROWS_AS(run_ranks(-1, nothing), zerospan::ConfigurationError);
  CHECK_THROWS_WITH_AS(run_ranks(1, nothing, {.timeout = 0ms}), "the timeout of a group of ranks must be positive",
                       zerospan::ConfigurationError);
  CHECK_THROWS_AS(zerospan::make_thread_communicators(0), zerospan::ConfigurationError);
}

TEST_CASE("an endless timeout is one") {
  CHECK_NOTHROW(run_ranks(2, [](ThreadCommunicator c) { c.barrier(named("start")); },
                          {.timeout = std::chrono::milliseconds::max()}));
}

TEST_CASE("one rank's exception becomes everybody's, and is the one that run_ranks throws") {
  std::array<std::string, 3> errors;
  CHECK_THROWS_WITH_AS(run_ranks(3,
                                 [&](ThreadCommunicator communicator) {
                                   std::vector<std::byte> weights(30);
                                   all_gather(communicator, "weights", weights);
                                   if (communicator.rank() == Rank{2}) throw std::domain_error{"no such weight"};
                                   const auto rank = static_cast<std::size_t>(communicator.rank().value);
                                   errors[rank] = error_of([&] { all_gather(communicator, "biases", weights); });
                                   all_gather(communicator, "more", weights);
                                 }),
                       "rank 2: no such weight", std::domain_error);
  for (const int rank : {0, 1}) {
    const std::string& error = errors[static_cast<std::size_t>(rank)];
    CHECK(contains(error, "RankFailedError, rank 2: rank 2 failed (no such weight) "));
    const std::string name = std::to_string(rank);
    const bool waited = contains(error, "while rank " + name + " waits in all-gather 'biases' of 10 bytes a rank (#1)");
    const bool was_late =
        contains(error, "before rank " + name + " called all-gather 'biases' of 10 bytes a rank (#1)");
    CHECK(waited != was_late);
  }
}

TEST_CASE("an exception of any type fails all ranks") {
  std::string error;
  CHECK_THROWS_AS(run_ranks(2,
                            [&](ThreadCommunicator communicator) {
                              if (communicator.rank() == Rank{0}) throw 42;
                              error = error_of([&] { communicator.barrier(named("end")); });
                            }),
                  int);
  CHECK(contains(error, "RankFailedError, rank 0: rank 0 failed (an exception that is not a std::exception) "));
}

TEST_CASE("an exception that run_ranks throws is the rank's own object, and its words name the rank") {
  struct NoSuchWeight : zerospan::Error {
    explicit NoSuchWeight(int number) : Error{"no such weight", std::source_location::current()}, weight{number} {}
    int weight;
  };
  try {
    run_ranks(3, [](ThreadCommunicator c) {
      if (c.rank() == Rank{1}) throw NoSuchWeight{42};
    });
    FAIL("nothing was thrown");
  } catch (const NoSuchWeight& error) {
    CHECK(error.weight == 42);
    CHECK(std::string{error.what()} == "rank 1: no such weight");
    CHECK(error.where().line() > 0);
  }
  try {
    run_ranks(2, [](ThreadCommunicator c) {
      if (c.rank() == Rank{1}) zerospan::throw_io_error(EIO, "read", "/disk/states", 4096, 512);
    });
    FAIL("nothing was thrown");
  } catch (const zerospan::IoError& error) {
    CHECK(std::string{error.what()} ==
          "rank 1: read of 512 bytes at offset 4096 of /disk/states: " + error.code().message());
    CHECK(error.code().value() == EIO);
    CHECK(error.path() == "/disk/states");
  }
  CHECK_THROWS_WITH_AS(run_ranks(2, [](ThreadCommunicator) -> int { throw std::bad_alloc{}; }), std::bad_alloc{}.what(),
                       std::bad_alloc);
  CHECK_THROWS_WITH_AS(run_ranks(1, [](ThreadCommunicator) { throw std::runtime_error{"alone"}; }), "alone",
                       std::runtime_error);
  CHECK_THROWS_WITH_AS(run_ranks(2,
                                 [](ThreadCommunicator outer) {
                                   if (outer.rank() == Rank{0}) return;
                                   run_ranks(2, [](ThreadCommunicator inner) {
                                     if (inner.rank() == Rank{0}) throw std::logic_error{"deep"};
                                   });
                                 }),
                       "rank 1: rank 0: deep", std::logic_error);
}

#if !defined(ZEROSPAN_SANITIZED)  // sanitizers map more memory than any limit leaves
TEST_CASE("where a rank's thread cannot be started, no rank begins, and run_ranks says so") {
  // Stacks are 8 MiB of addresses each: 200 of them do not fit, some do.
  std::size_t pages = 0;
  std::ifstream{"/proc/self/statm"} >> pages;
  const auto in_use = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::atomic<int> calls = 0;
  const auto run = [&] { run_ranks(200, [&](ThreadCommunicator) { ++calls; }); };
  {
    const zerospan_test::ProcessLimit limit{RLIMIT_AS, in_use + (std::size_t{64} << 20)};
    try {
      run();
      FAIL("200 threads were started");
    } catch (const zerospan::RankFailedError& error) {
      CHECK(contains(error.what(), " of 200 failed (its thread could not be started: "));
      CHECK(error.culprit().value < 200);
    }
    CHECK(calls == 0);
  }
  CHECK_NOTHROW(run());
  CHECK(calls == 200);
}
#endif

/// Tells of the end of its thread, where the thread sanitizer sees it (`set_value_at_thread_exit` is not instrumented).
struct AtThreadExit {
  std::promise<void>* told = nullptr;
  ~AtThreadExit() {
    if (told) told->set_value();
  }
};
thread_local AtThreadExit at_thread_exit;

TEST_CASE("run_ranks throws the error of the rank at fault, even if others ended before it") {
  std::promise<void> rank_0_has_ended;
  CHECK_THROWS_WITH_AS(run_ranks(2,
                                 [&](ThreadCommunicator communicator) {
                                   if (communicator.rank() == Rank{0}) {
                                     at_thread_exit.told = &rank_0_has_ended;
                                     communicator.barrier(named("end"));
                                   }
                                   communicator.abort("the disk is full");
                                   rank_0_has_ended.get_future().wait();
                                   throw std::runtime_error{"the disk is full, and so is the moon"};
                                 }),
                       "rank 1: the disk is full, and so is the moon", std::runtime_error);
}

TEST_CASE("a rank that returns early fails those that wait for it") {
  const auto errors = errors_of_ranks(2, [](ThreadCommunicator& communicator) {
    communicator.barrier(named("start"));
    if (communicator.rank() == Rank{0}) communicator.barrier(named("end"));
  });
  CHECK(errors == std::vector<std::string>{
                      "RankFailedError, rank 1: rank 1 returned while rank 0 waits in barrier 'end' (#1)", "no error"});

  CHECK_THROWS_WITH_AS(run_ranks(2,
                                 [](ThreadCommunicator communicator) {
                                   if (communicator.rank() == Rank{1}) communicator.barrier(named("end"));
                                 }),
                       "rank 0 returned while rank 1 waits in barrier 'end' (#0)", zerospan::RankFailedError);
}

TEST_CASE("a rank has returned even if it has left its communicator behind") {
  std::optional<ThreadCommunicator> left_behind;
  const auto errors = run_ranks(2, [&](ThreadCommunicator communicator) {
    if (communicator.rank() == Rank{1}) {
      left_behind = std::move(communicator);
      return std::string{};
    }
    return error_of([&] { communicator.barrier(named("end")); });
  });
  CHECK(errors[0] == "RankFailedError, rank 1: rank 1 returned while rank 0 waits in barrier 'end' (#0)");
}

TEST_CASE("a rank that returns after all have met fails nobody") {
  for (int i = 0; i < 200; ++i) {
    CHECK_NOTHROW(run_ranks(4, [](ThreadCommunicator communicator) { communicator.barrier(named("end")); }));
  }
}

TEST_CASE("ranks that stay away fail those that wait, and themselves when they come") {
  for (const int size : {2, 3}) {
    std::latch rank_0_has_failed{1};
    const auto errors = errors_of_ranks(size,
                                        [&](ThreadCommunicator& communicator) {
                                          if (communicator.rank() != Rank{0}) rank_0_has_failed.wait();
                                          try {
                                            communicator.barrier(named("end"));
                                          } catch (...) {
                                            if (communicator.rank() == Rank{0}) rank_0_has_failed.count_down();
                                            throw;
                                          }
                                        },
                                        {.timeout = 50ms});
    const std::string failure = std::string{"RankTimeoutError, rank 1: "} + (size == 2 ? "rank 1" : "ranks 1, 2") +
                                " did not arrive at barrier 'end' (#0) within 50 ms, ";
    CHECK(errors[0] == failure + "while rank 0 waits in barrier 'end' (#0)");
    CHECK(errors[1] == failure + "before rank 1 called barrier 'end' (#0)");
    if (size == 3) CHECK(errors[2] == failure + "before rank 2 called barrier 'end' (#0)");
  }
}

TEST_CASE("ranks that diverge are told what each of them called") {
  std::vector<std::byte> bytes(64);
  std::vector<std::int64_t> integers(3);
  const std::array<GatherPart, 2> two_parts{{{nullptr, 1024}, {nullptr, 512}}};
  const std::array<GatherPart, 2> swapped_parts{{{nullptr, 512}, {nullptr, 1024}}};
  const std::vector<GatherPart> many_parts(20, GatherPart{nullptr, 3});
  const auto reduction = [&](ElementType input, ElementType output, std::size_t elements) {
    return zerospan::Reduction{input, bytes.data(), output, bytes.data() + 32, elements};
  };
  using enum ElementType;
  const auto messages_of = [](auto a, auto b) {
    return errors_of_ranks(2, [&](ThreadCommunicator& communicator) {
      communicator.barrier(named("start"));
      if (communicator.rank() == Rank{0}) {
        a(communicator);
      } else {
        b(communicator);
      }
    });
  };
  const auto check = [](const std::vector<std::string>& errors, const std::string& a, const std::string& b) {
    const std::string expected = "DivergenceError, rank 1: ranks diverge: rank 0: " + a + "; rank 1: " + b;
    CHECK(errors == std::vector{expected, expected});
  };

  check(messages_of([](auto& c) { c.barrier(named("a")); }, [](auto& c) { c.barrier(named("b")); }), "barrier 'a' (#1)",
        "barrier 'b' (#1)");
  check(messages_of([](auto& c) { c.barrier(named("a")); }, [](auto& c) { c.duplicate(); }), "barrier 'a' (#1)",
        "duplicate (#1)");
  check(messages_of([&](auto& c) { c.all_gather(named("w"), two_parts); },
                    [&](auto& c) { c.all_gather(named("w"), swapped_parts); }),
        "all-gather 'w' of 1024 + 512 bytes a rank (#1)", "all-gather 'w' of 512 + 1024 bytes a rank (#1)");
  check(messages_of([&](auto& c) { c.all_gather(named("w"), many_parts); },
                    [&](auto& c) { c.all_gather(named("w"), {}); }),
        "all-gather 'w' of 3 + 3 + 3 + 3 + 3 + 3 + 3 + 3 + ... = 60 (20 parts) bytes a rank (#1)",
        "all-gather 'w' of 0 bytes a rank (#1)");
  check(messages_of([&](auto& c) { c.all_reduce(named("g"), reduction(bfloat16, bfloat16, 4)); },
                    [&](auto& c) { c.reduce_scatter(named("g"), reduction(bfloat16, bfloat16, 4)); }),
        "all-reduce 'g' of 4 bfloat16 elements (#1)", "reduce-scatter 'g' of 4 bfloat16 elements a rank (#1)");
  check(messages_of([&](auto& c) { c.all_reduce(named("g"), reduction(bfloat16, float32, 4)); },
                    [&](auto& c) { c.all_reduce(named("g"), reduction(float32, float32, 4)); }),
        "all-reduce 'g' of 4 bfloat16 elements into float32 (#1)", "all-reduce 'g' of 4 float32 elements (#1)");
  check(messages_of([&](auto& c) { c.reduce_scatter(named("g"), reduction(bfloat16, float32, 4)); },
                    [&](auto& c) { c.reduce_scatter(named("g"), reduction(bfloat16, bfloat16, 5)); }),
        "reduce-scatter 'g' of 4 bfloat16 elements into float32 a rank (#1)",
        "reduce-scatter 'g' of 5 bfloat16 elements a rank (#1)");
  check(messages_of([&](auto& c) { c.all_reduce(named("n"), integers); },
                    [&](auto& c) { c.all_reduce(named("n"), std::span{integers}.first(2)); }),
        "all-reduce 'n' of 3 integers (#1)", "all-reduce 'n' of 2 integers (#1)");
  check(messages_of([&](auto& c) { c.broadcast(named("s"), bytes, Rank{0}); },
                    [&](auto& c) { c.broadcast(named("s"), bytes, Rank{1}); }),
        "broadcast 's' of 64 bytes from rank 0 (#1)", "broadcast 's' of 64 bytes from rank 1 (#1)");
  check(messages_of([&](auto& c) { c.broadcast(named("s"), bytes, Rank{0}); },
                    [&](auto& c) { c.broadcast(named("s"), std::span{bytes}.first(8), Rank{0}); }),
        "broadcast 's' of 64 bytes from rank 0 (#1)", "broadcast 's' of 8 bytes from rank 0 (#1)");
}

TEST_CASE("at fault for a divergence is who differs from the majority, or else from rank 0") {
  const auto culprit = [](const std::vector<const char*>& names) {
    const auto errors = errors_of_ranks(static_cast<int>(names.size()), [&](ThreadCommunicator& communicator) {
      communicator.barrier(named(names[static_cast<std::size_t>(communicator.rank().value)]));
    });
    for (const std::string& error : errors) CHECK(error == errors[0]);
    return errors[0].substr(0, errors[0].find(": "));
  };
  CHECK(culprit({"b", "a", "a"}) == "DivergenceError, rank 0");
  CHECK(culprit({"a", "b", "a"}) == "DivergenceError, rank 1");
  CHECK(culprit({"a", "a", "b"}) == "DivergenceError, rank 2");
  CHECK(culprit({"a", "a", "b", "b"}) == "DivergenceError, rank 2");
  CHECK(culprit({"a", "b", "c", "d"}) == "DivergenceError, rank 1");
}

TEST_CASE("abort reaches a rank that waits, from any thread") {
  for (int i = 0; i < 20; ++i) {
    const auto errors = errors_of_ranks(2, [](ThreadCommunicator& communicator) {
      communicator.barrier(named("start"));
      if (communicator.rank() == Rank{1}) return communicator.abort("no more");
      communicator.barrier(named("end"));
    });
    CHECK(contains(errors[0], "RankFailedError, rank 1: rank 1 failed (no more) "));
    CHECK(contains(errors[0], "rank 0 "));
    CHECK(contains(errors[0], "barrier 'end' (#1)"));
  }

  std::latch rank_1_has_failed{1};
  const auto errors = errors_of_ranks(2, [&](ThreadCommunicator& communicator) {
    if (communicator.rank() == Rank{0}) {
      rank_1_has_failed.wait();
      communicator.barrier(named("end"));
    }
    const std::jthread other{[&] { communicator.abort("a lane gave up"); }};
    try {
      communicator.barrier(named("end"));
    } catch (...) {
      rank_1_has_failed.count_down();
      throw;
    }
  });
  CHECK(errors[0] == "RankFailedError, rank 1: rank 1 failed (a lane gave up) before rank 0 called barrier 'end' (#0)");
  CHECK(contains(errors[1], "RankFailedError, rank 1: rank 1 failed (a lane gave up) "));
}

TEST_CASE("only the first failure counts") {
  const auto errors = errors_of_ranks(1, [](ThreadCommunicator& communicator) {
    communicator.abort("first");
    communicator.abort("second");
    communicator.barrier(named("end"));
  });
  CHECK(errors[0] == "RankFailedError, rank 0: rank 0 failed (first) before rank 0 called barrier 'end' (#0)");
}

TEST_CASE("a failure of a group fails its duplicates, and the other way round") {
  for (const bool child_aborts : {true, false}) {
    const auto errors = errors_of_ranks(3, [&](ThreadCommunicator& communicator) {
      ThreadCommunicator child = communicator.duplicate();
      ThreadCommunicator sibling = communicator.duplicate();
      communicator.barrier(named("start"));
      if (communicator.rank() == Rank{2}) return (child_aborts ? child : communicator).abort("boom");
      (communicator.rank() == Rank{0} ? sibling : communicator).barrier(named("end"));
    });
    CHECK(contains(errors[0], "RankFailedError, rank 2: rank 2 failed (boom) "));
    CHECK(contains(errors[0], "barrier 'end' (#0)"));
    CHECK(contains(errors[1], "RankFailedError, rank 2: rank 2 failed (boom) "));
    CHECK(contains(errors[1], "barrier 'end' (#3)"));
  }
}

TEST_CASE("a divergence in a duplicate reaches the rank that waits elsewhere") {
  const auto errors = errors_of_ranks(3, [](ThreadCommunicator& communicator) {
    ThreadCommunicator child = communicator.duplicate();
    const auto run_child = [&] { child.barrier(named(communicator.rank() == Rank{1} ? "left" : "right")); };
    if (communicator.rank() != Rank{0}) run_child();
    std::jthread lane{[&] { CHECK(contains(error_of(run_child), "DivergenceError, rank 1: ")); }};
    communicator.barrier(named("parent"));
  });
  const std::string expected =
      "DivergenceError, rank 1: ranks diverge: rank 0: barrier 'right' (#0); rank 1: barrier 'left' (#0); rank 2: "
      "barrier 'right' (#0)";
  for (const std::string& error : errors) CHECK(contains(error, expected));
}

TEST_CASE("a dying rank frees its buffers only after its peers have left them") {
  for (int round = 0; round < 10; ++round) {
    const auto errors = errors_of_ranks(3, [&](ThreadCommunicator& communicator) {
      if (communicator.rank() != Rank{1}) return gather_until_failure(communicator);
      std::atomic<bool> gathers = false;
      const std::jthread other{[&] {
        gathers.wait(false);
        communicator.abort("enough");
      }};
      std::vector<std::byte> buffer(std::size_t{3} << 18);
      for (int i = 0; i < round; ++i) all_gather(communicator, "weights", buffer);
      gathers = true;
      gathers.notify_one();
      for (;;) all_gather(communicator, "weights", buffer);
    });
    for (const std::string& error : errors) {
      CHECK(contains(error, "RankFailedError, rank 1: rank 1 failed (enough) "));
      CHECK(contains(error, "all-gather 'weights' of 262144 bytes a rank (#"));
    }
  }
}

TEST_CASE("an exception between collectives frees nothing that peers still read") {
  for (int round = 0; round < 10; ++round) {
    CHECK_THROWS_WITH_AS(run_ranks(4,
                                   [&](ThreadCommunicator communicator) {
                                     std::vector<std::byte> buffer(std::size_t{1} << 20);
                                     for (int i = 0;; ++i) {
                                       if (communicator.rank() == Rank{3} && i == round) {
                                         throw std::runtime_error{"out of luck"};
                                       }
                                       all_gather(communicator, "weights", buffer);
                                     }
                                   }),
                         "rank 3: out of luck", std::runtime_error);
  }
}

TEST_CASE("a new group works after one has failed") {
  CHECK_THROWS_AS(run_ranks(2, [](ThreadCommunicator) { throw std::runtime_error{"once"}; }), std::runtime_error);
  const auto sums = run_ranks(2, [](ThreadCommunicator communicator) {
    std::array<std::int64_t, 1> one{1};
    communicator.all_reduce(named("ranks"), one);
    return one[0];
  });
  CHECK(sums == std::vector<std::int64_t>{2, 2});
}

TEST_CASE("communicators may be handed to threads of one's own; destroying the last of a rank ends it") {
  auto ranks = zerospan::make_thread_communicators(2);
  CHECK(ranks[1].rank() == Rank{1});
  CHECK(ranks[1].size() == 2);
  std::string error;
  {
    const std::jthread thread{[&error, mine = std::move(ranks[0])]() mutable {
      ThreadCommunicator child = mine.duplicate();
      { [[maybe_unused]] const ThreadCommunicator gone = std::move(mine); }
      child.barrier(named("start"));
      error = error_of([&] { child.barrier(named("end")); });
    }};
    ThreadCommunicator mine = std::move(ranks[1]);
    ThreadCommunicator child = mine.duplicate();
    mine = std::move(child);
    mine.barrier(named("start"));
    { [[maybe_unused]] const ThreadCommunicator gone = std::move(mine); }
  }
  CHECK(error == "RankFailedError, rank 1: rank 1 returned while rank 0 waits in barrier 'end' (#1)");
}

#if !defined(ZEROSPAN_SANITIZED)
TEST_CASE("communicators that have ended leave nothing behind in those that go on") {
  const auto growth = run_ranks(3, [](ThreadCommunicator ranks) {
    const std::array grown{zerospan_test::heap_growth(20'000,
                                                      [&](int) {
                                                        ThreadCommunicator duplicate = ranks.duplicate();
                                                        duplicate.barrier(named("one life"));
                                                      }),
                           zerospan_test::heap_growth(2'000, [&](int) {
                             ThreadCommunicator group = ranks.split({ranks.rank().value % 2, ranks.rank().value});
                             group.barrier(named("one life"));
                           })};
    ranks.barrier(named("all have measured"));
    return grown;
  });
  for (const auto& rank : growth) {
    for (const std::ptrdiff_t bytes : rank) CHECK(bytes < 64 << 10);
  }
}
#endif

TEST_CASE("a communicator is of no use in a forked process, and of all its use in the one that forked") {
  run_ranks(2, [](ThreadCommunicator ranks) {
    ranks.barrier(named("start"));
    if (ranks.rank() == Rank{0}) {
      CHECK(zerospan_test::is_true_in_fork([&] {
        const std::string error = error_of([&] { ranks.barrier(named("in the child")); });
        ranks.abort("the child's own business");
        { [[maybe_unused]] const ThreadCommunicator gone = std::move(ranks); }
        return error ==
               "RankFailedError, rank 0: rank 0 uses a communicator after a fork: it stays with the process that made "
               "it";
      }));
    }
    ranks.barrier(named("end"));
  });
}

TEST_CASE("a random schedule of collectives on a group and its duplicate gives the sums and the bytes it must") {
  constexpr int size = 4;
  constexpr int steps = 400;
  const auto failed_steps = run_ranks(size, [](ThreadCommunicator communicator) {
    ThreadCommunicator child = communicator.duplicate();
    const int rank = communicator.rank().value;
    int failed = 0;
    for (std::uint64_t step = 0; step < steps; ++step) {
      const auto dice = zerospan::philox(11, 0, step);
      ThreadCommunicator& c = dice[0] % 3 == 0 ? child : communicator;
      const std::size_t n = dice[1] % 5000;
      const auto term = [&](int r, std::size_t i) {
        return static_cast<float>(zerospan::philox(step, 1, i)[0] % 1000 + static_cast<unsigned>(r));
      };
      const auto total = [&](std::size_t i) { return 4.0F * term(0, i) + 6.0F; };  // exact in any order
      const Collective what = named(dice[3] % 2 == 0 ? "even" : "odd");
      const auto as_bytes = [](std::vector<float>& v) { return reinterpret_cast<std::byte*>(v.data()); };
      std::vector<float> values(n * size);
      bool right = true;
      switch (dice[2] % 5) {
        case 0:
          for (std::size_t i = 0; i < n; ++i) values[static_cast<std::size_t>(rank) * n + i] = term(rank, i);
          {
            const GatherPart part{as_bytes(values), n * sizeof(float)};
            c.all_gather(what, {&part, 1});
          }
          for (std::size_t i = 0; i < n * size; ++i) right = right && values[i] == term(static_cast<int>(i / n), i % n);
          break;
        case 1:
          for (std::size_t i = 0; i < n * size; ++i) values[i] = term(rank, i);
          {
            const std::size_t own = static_cast<std::size_t>(rank) * n;
            std::byte* const shard = as_bytes(values) + own * sizeof(float);
            c.reduce_scatter(what, {ElementType::float32, as_bytes(values), ElementType::float32, shard, n});
            for (std::size_t i = own; i < own + n; ++i) right = right && values[i] == total(i);
          }
          break;
        case 2:
          for (std::size_t i = 0; i < n * size; ++i) values[i] = term(rank, i);
          c.all_reduce(what,
                       {ElementType::float32, as_bytes(values), ElementType::float32, as_bytes(values), n * size});
          for (std::size_t i = 0; i < n * size; ++i) right = right && values[i] == total(i);
          break;
        case 3: {
          std::vector<std::int64_t> integers(n, rank);
          c.all_reduce(what, integers);
          right = integers == std::vector<std::int64_t>(n, 6);
          break;
        }
        default:
          const int root = static_cast<int>(n % size);
          std::vector<std::byte> bytes(n, static_cast<std::byte>(rank));
          c.broadcast(what, bytes, Rank{root});
          right = bytes == std::vector<std::byte>(n, static_cast<std::byte>(root));
      }
      failed += right ? 0 : 1;
    }
    return failed;
  });
  CHECK(failed_steps == std::vector<int>(size, 0));
}
