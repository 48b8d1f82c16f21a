/// What ranks of a fake NCCL exchange, and how they are split.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/collective_exercise.hpp"
#include "support/fake_nccl.hpp"
#include "support/fake_nccl_ranks.hpp"
#include "support/fake_place.hpp"
#include "support/sample.hpp"
#include "support/split_conformance.hpp"

#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/core/error.hpp>

namespace {

using zerospan::NcclOptions;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan::ThreadExchange;
using zerospan_test::as_size;
using zerospan_test::consecutive;
using zerospan_test::end_of;
using zerospan_test::Grouping;
using zerospan_test::groupings;
using zerospan_test::hasty;
using zerospan_test::holds;
using zerospan_test::patient;
using zerospan_test::run_on_fake_nccl;
using zerospan_test::StreamPlace;
using zerospan_test::strided;
using zerospan_test::Told;
using Memory = zerospan_test::FakeMemory;
using namespace std::chrono_literals;

template <class Api = fake::Api>
using Communicator = zerospan_test::FakeNccl<Api>;

static_assert(zerospan::ExchangesSlices<Communicator<>> && zerospan::Splits<Communicator<>>);

using BoardlessExchange = zerospan::CommunicatorExchange<ThreadCommunicator>;

/// What a host has that knows nothing of groups.
class PlainExchange {
 public:
  explicit PlainExchange(ThreadCommunicator threads) : exchange_{std::move(threads)} {}
  Rank rank() const { return exchange_.rank(); }
  int size() const { return exchange_.size(); }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) { exchange_.all_gather(mine, all); }

 private:
  BoardlessExchange exchange_;
};
static_assert(zerospan::ByteExchange<PlainExchange> && !zerospan::SplitsExchange<PlainExchange>);

/// Counts what is on the board of each rank.
class CountedExchange {
 public:
  explicit CountedExchange(ThreadExchange exchange, std::shared_ptr<std::atomic<std::size_t>> posted)
      : exchange_{std::move(exchange)}, posted_{std::move(posted)} {}
  Rank rank() const { return exchange_.rank(); }
  int size() const { return exchange_.size(); }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) { exchange_.all_gather(mine, all); }
  CountedExchange duplicate() { return CountedExchange{exchange_.duplicate(), posted_}; }
  CountedExchange split(zerospan::SplitPlace place) { return CountedExchange{exchange_.split(place), posted_}; }
  void abort(const std::string& reason) noexcept { exchange_.abort(reason); }
  void post(std::span<const std::byte> bytes) {
    exchange_.post(bytes);
    *posted_ = bytes.size();
  }
  std::vector<std::byte> peek(Rank rank) const { return exchange_.peek(rank); }

 private:
  ThreadExchange exchange_;
  std::shared_ptr<std::atomic<std::size_t>> posted_;
};
static_assert(zerospan::PostsToBoard<CountedExchange> && zerospan::SplitsExchange<CountedExchange>);

/// What `on_failure` tells.
std::string words_of(Told& told) {
  return end_of([&] { std::rethrow_exception(told.wait()); });
}

template <class C>
void gather(C& communicator, StreamPlace& place, Memory& buffer, const char* name) {
  const zerospan::GatherPart part{buffer.data(), 16};
  communicator.all_gather({place.stream(), name}, std::span{&part, 1});
}

/// Every collective of a group, on whatever it is split from.
template <class Api, class Exchange>
void check_collectives(const Grouping& grouping) {
  const auto alone = zerospan::run_ranks(2, [](ThreadCommunicator threads) {
    exercise::HostPlace place;
    return exercise::Exercise{threads, place}.run();
  });
  const auto outcomes = run_on_fake_nccl<Api, Exchange>(4, patient, [&](auto& c, StreamPlace& place) {
    auto part = c.split(grouping.place(c.rank()));
    auto twin = part.duplicate();
    auto outcome = exercise::Exercise{part, place}.run();
    auto again = exercise::Exercise{twin, place}.run();
    CHECK(again.results == outcome.results);
    c.barrier({place.stream(), "all"});
    part.verify();
    return std::pair{part.rank().value, std::move(outcome)};
  });
  for (int rank = 0; rank < 4; ++rank) {
    const auto& [place, outcome] = outcomes[as_size(rank)];
    CHECK(grouping.group_of(rank)[as_size(place)] == rank);
    CHECK(outcome.results == alone[as_size(place)].results);
    CHECK(outcome.integers == alone[as_size(place)].integers);
  }
}

}  // namespace

TEST_CASE("all_to_all brings every slice to its rank, on the stream") {
  for (const int size : {1, 2, 3}) {
    for (const std::size_t bytes : zerospan_test::slice_sizes) {
      const auto outputs = run_on_fake_nccl(size, patient, [&](auto& c, StreamPlace& place) {
        exercise::Buffer slices;
        for (int to = 0; to < size; ++to) {
          slices.insert(slices.end(), bytes, static_cast<std::byte>(16 * c.rank().value + to));
        }
        Memory input = place.memory(slices);
        Memory output = place.memory(exercise::Buffer(slices.size() + 1, std::byte{0xee}));
        c.all_to_all({place.stream(), "slices"}, {input.data(), output.data(), bytes});
        return place.read(output);
      });
      for (int me = 0; me < size; ++me) {
        exercise::Buffer expected;
        for (int from = 0; from < size; ++from) {
          expected.insert(expected.end(), bytes, static_cast<std::byte>(16 * from + me));
        }
        expected.push_back(std::byte{0xee});
        CHECK(outputs[as_size(me)] == expected);
      }
    }
  }
}

TEST_CASE("all_to_all refuses an output that overlaps its input") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place) {
    Memory& buffer = place.buffer(64);
    CHECK_THROWS_AS(c.all_to_all({place.stream(), "slices"}, {buffer.data(), buffer.data() + 15, 8}),
                    zerospan::ConfigurationError);
    c.barrier({place.stream(), "in good health"});
  });
}

TEST_CASE("ranks that exchange slices of different sizes diverge") {
  run_on_fake_nccl(2, patient, [](auto& c, StreamPlace& place) {
    Told told{c};
    Memory& input = place.buffer(64);
    Memory& output = place.buffer(64);
    const std::size_t bytes = c.rank() == Rank{1} ? 8 : 16;
    static_cast<void>(end_of([&] { c.all_to_all({place.stream(), "slices"}, {input.data(), output.data(), bytes}); }));
    CHECK(holds(words_of(told),
                "divergence of rank 1: ranks diverge: rank 0: all-to-all 'slices' of 16 bytes a slice (#0); rank 1: "
                "all-to-all 'slices' of 8 bytes a slice (#0)"));
    c.on_failure({});
  });
}

TEST_CASE("the groups of a split have every collective, by NCCL's split and by new ids, with a board and without") {
  zerospan_test::Sample sample{4};
  for (const Grouping& grouping : groupings) {
    if (sample.takes()) check_collectives<fake::Api, ThreadExchange>(grouping);
    if (sample.takes()) check_collectives<fake::ApiWithoutSplits, ThreadExchange>(grouping);
    if (sample.takes()) check_collectives<fake::Api, BoardlessExchange>(grouping);
  }
}

TEST_CASE("collectives in two hops over NCCL have the bits of those over threads") {
  const auto in_groups = [](auto& ranks) {
    return zerospan::GroupedCommunicator{zerospan::split_into_groups(ranks, 2)};
  };
  const auto expected = zerospan::run_ranks(4, [&](ThreadCommunicator threads) {
    exercise::HostPlace place;
    auto grouped = in_groups(threads);
    return exercise::Exercise{grouped, place}.run();
  });
  const auto outcomes = run_on_fake_nccl(4, patient, [&](auto& c, StreamPlace& place) {
    auto grouped = in_groups(c);
    return exercise::Exercise{grouped, place}.run();
  });
  for (std::size_t rank = 0; rank < 4; ++rank) {
    CHECK(outcomes[rank].results == expected[rank].results);
    CHECK(outcomes[rank].integers == expected[rank].integers);
  }
}

TEST_CASE("a split of a split, down to one rank, and groups of different sizes") {
  const auto sums = run_on_fake_nccl(4, patient, [](auto& c, StreamPlace& place) {
    auto most = c.split({c.rank() == Rank{3} ? -1 : 5, -c.rank().value});
    auto alone = most.split({most.rank().value, 0});
    std::int64_t ranks = 1;
    most.all_reduce({place.stream(), "ranks"}, std::span{&ranks, 1});
    std::int64_t one = 1;
    alone.all_reduce({place.stream(), "one"}, std::span{&one, 1});
    return 100 * ranks + 10 * one + most.rank().value;
  });
  CHECK(sums == std::vector<std::int64_t>{312, 311, 310, 110});
}

TEST_CASE("two ranks at one place are refused on all ranks, and harm nothing") {
  run_on_fake_nccl(3, patient, [](auto& c, StreamPlace& place) {
    const std::string text = end_of([&] { static_cast<void>(c.split({1, c.rank() == Rank{0} ? 0 : 6})); });
    CHECK(text == "a split gives two ranks key 6 of color 1");
    auto part = c.split({0, c.rank().value});
    part.barrier({place.stream(), "in good health"});
  });
}

TEST_CASE("an exchange that knows no groups makes none") {
  run_on_fake_nccl<fake::Api, PlainExchange>(2, patient, [](auto& c, StreamPlace& place) {
    CHECK_THROWS_AS(static_cast<void>(c.split({0, c.rank().value})), zerospan::ConfigurationError);
    c.barrier({place.stream(), "in good health"});
  });
}

TEST_CASE("a rank that aborts in its group ends every group and the whole") {
  for (const Grouping& grouping : {consecutive, strided}) {
    const int culprit = grouping.groups[1][1];
    run_on_fake_nccl(4, patient, [&](auto& c, StreamPlace& place) {
      auto part = c.split(grouping.place(c.rank()));
      Told told{part};
      static_cast<void>(end_of([&] { c.barrier({place.stream(), "all listen"}); }));
      if (c.rank().value == culprit) part.abort("out of luck");
      const std::string name = "rank " + std::to_string(culprit);
      const std::string text = words_of(told);
      CHECK(text == "failure of " + name + ": " + name + " failed (out of luck)");
      CHECK(end_of([&] { gather(c, place, place.buffer(), "later"); }) == text);
      CHECK(end_of([&] { gather(part, place, place.buffer(), "later"); }) == text);
      part.on_failure({});
      place.synchronize();
    });
  }
}

TEST_CASE("ranks that diverge in one group are named, to all, as the whole names them") {
  run_on_fake_nccl(4, patient, [](auto& c, StreamPlace& place) {
    auto part = c.split(strided.place(c.rank()));
    Told told{c};
    static_cast<void>(end_of([&] { c.barrier({place.stream(), "all have split"}); }));
    static_cast<void>(end_of([&] { gather(part, place, place.buffer(), c.rank() == Rank{3} ? "mine" : "ours"); }));
    CHECK(words_of(told) ==
          "divergence of rank 3: ranks diverge: rank 1: all-gather 'ours' of 16 bytes a rank (#0); rank 3: "
          "all-gather 'mine' of 16 bytes a rank (#0)");
    c.on_failure({});
    place.synchronize();
  });
}

TEST_CASE("verify in a group names the ranks of the whole, and a root as well") {
  run_on_fake_nccl<fake::Api, BoardlessExchange>(4, patient, [](auto& c, StreamPlace& place) {
    auto part = c.split(strided.place(c.rank()));
    Memory& buffer = place.buffer(16);
    const std::span<std::byte> bytes{buffer.data(), buffer.size()};
    part.broadcast({place.stream(), c.rank() == Rank{3} ? "mine" : "ours"}, bytes, Rank{1});
    const std::string end = end_of([&] { part.verify(); });
    if (c.rank().value % 2 == 0) {
      CHECK((end == "well" || holds(end, "rank 3")));  // the other group may have ended the family
    } else {
      CHECK(holds(end, "divergence of rank 3: ranks diverge: rank 1: broadcast 'ours' of 16 bytes from rank 3 (#0)"));
    }
    CHECK(holds(end_of([&] { c.verify(); }), "rank 3"));
    place.synchronize();
  });
}

TEST_CASE("a rank that does not come to its group is named to all when time is up") {
  run_on_fake_nccl(4, hasty, [](auto& c, StreamPlace& place) {
    auto part = c.split(strided.place(c.rank()));
    Told told{c};
    static_cast<void>(end_of([&] { c.barrier({place.stream(), "all have split"}); }));
    if (c.rank() != Rank{3}) static_cast<void>(end_of([&] { gather(part, place, place.buffer(), "w"); }));
    const std::string text = words_of(told);
    CHECK(text ==
          "timeout of rank 3: rank 3 did not arrive at all-gather 'w' of 16 bytes a rank (#0) within 500 ms; rank 1: "
          "all-gather 'w' of 16 bytes a rank (#0); rank 3: nothing");
    c.on_failure({});
    place.synchronize();
  });
}

TEST_CASE("a rank that ends is not waited for in its group") {
  run_on_fake_nccl(4, patient, [](auto& c, StreamPlace& place) {
    auto part = c.split(strided.place(c.rank()));
    static_cast<void>(end_of([&] { c.barrier({place.stream(), "all are in groups"}); }));  // fails here or later
    if (c.rank() == Rank{3}) return;
    Told told{c};
    static_cast<void>(end_of([&] {
      if (c.rank() == Rank{1}) gather(part, place, place.buffer(), "w");
    }));
    CHECK(holds(words_of(told), "failure of rank 3: rank 3 returned while rank 1 waits in all-gather 'w'"));
    c.on_failure({});
    place.synchronize();
  });
}

TEST_CASE("communicators that have ended leave nothing behind in those that go on, with a board and without") {
  NcclOptions options = patient;
  options.scratch = zerospan::Bytes{4096};
  constexpr int lives = zerospan_test::is_sanitized ? 500 : 2000;
  const auto live_and_die = [&](auto make_exchange, auto is_as_before) {
    const auto world = std::make_shared<fake::World>();
    world->polls = 0;
    zerospan::run_ranks(3, [&](ThreadCommunicator threads) {
      StreamPlace place;
      const auto posted = std::make_shared<std::atomic<std::size_t>>(0);
      Communicator<> communicator{make_exchange(std::move(threads), posted), options, fake::Api{world, place.gpu_}};
      communicator.barrier({place.stream(), "all are there"});
      const long users = world.use_count();
      for (int i = 0; i < lives; ++i) {
        auto duplicate = communicator.duplicate();
        if (i % 10 != 0) continue;
        auto group = duplicate.split({duplicate.rank().value % 2, duplicate.rank().value});
        group.barrier({place.stream(), "one life"});
      }
      communicator.barrier({place.stream(), "all have ended theirs"});
      for (int i = 0; i < 10'000 && !is_as_before(*posted, world.use_count(), users); ++i) {
        std::this_thread::sleep_for(1ms);
      }
      CHECK(is_as_before(*posted, world.use_count(), users));
      communicator.barrier({place.stream(), "all have looked"});
    });
    CHECK(world->communicators == 0);
  };
  live_and_die(
      [](ThreadCommunicator threads, const auto& posted) {
        return CountedExchange{ThreadExchange{std::move(threads)}, posted};
      },
      [](std::size_t posted, long, long) {
        return posted > 0 && posted <= 2 * sizeof(zerospan::detail::SequenceRecord) + 1024 + 64;
      });
  live_and_die([](ThreadCommunicator threads, const auto&) { return BoardlessExchange{std::move(threads)}; },
               [](std::size_t, long users, long before) { return users <= before + 100; });
}
