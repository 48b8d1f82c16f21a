#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/stream_thread_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/collective_exercise.hpp"
#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_place.hpp"

namespace {

using namespace zerospan::literals;
using exercise::Outcome;
using zerospan::DivergenceError;
using zerospan::RankFailedError;
using zerospan::ThreadCommunicator;
using zerospan_test::FakeDevice;
using zerospan_test::FakeGpu;
using zerospan_test::FakeRuntime;
using zerospan_test::StreamPlace;

using Communicator = zerospan::StreamThreadCommunicator<FakeRuntime>;
static_assert(zerospan::TrainingCommunicator<Communicator>);

/// Runs ranks that are threads on one GPU. @param f Called as `f(communicator, place)`.
template <class F>
auto run(int ranks, F f) {
  const auto gpu = std::make_shared<FakeGpu>();
  return zerospan::run_ranks(ranks, [&](ThreadCommunicator threads) {
    FakeDevice device{FakeRuntime{gpu}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
    StreamPlace place{.gpu_ = gpu};
    Communicator communicator{std::move(threads), device};
    return f(communicator, place);
  });
}

TEST_CASE("every collective on streams gives the bits of the same one on threads") {
  for (const int ranks : {1, 2, 3, 4}) {
    CAPTURE(ranks);
    const auto expected = zerospan::run_ranks(ranks, [](ThreadCommunicator communicator) {
      exercise::HostPlace place;
      return exercise::Exercise{communicator, place}.run();
    });
    const auto outcomes = run(ranks, [](Communicator& communicator, StreamPlace& place) {
      return exercise::Exercise{communicator, place}.run();
    });
    for (std::size_t r = 0; r < expected.size(); ++r) {
      CHECK(outcomes[r].results == expected[r].results);
      CHECK(outcomes[r].integers == expected[r].integers);
    }
  }
}

TEST_CASE("a duplicate is as good") {
  run(2, [](Communicator& communicator, StreamPlace& place) {
    Communicator twin = communicator.duplicate();
    CHECK(twin.rank() == communicator.rank());
    return exercise::Exercise{twin, place}.run();
  });
}

TEST_CASE("a collective waits on the device for the peers' streams, and they for it") {
  run(3, [](Communicator& communicator, StreamPlace& place) {
    const auto rank = static_cast<std::size_t>(communicator.rank().value);
    auto& buffer = place.buffer(3);
    for (int round = 1; round <= 50; ++round) {
      const auto mark = static_cast<std::byte>(round);
      place.enqueue([bytes = buffer.bytes(), rank, mark] { bytes[rank] = mark; });
      const zerospan::GatherPart part{buffer.data(), 1};
      communicator.all_gather({place.stream(), "marks"}, {&part, 1});
      place.enqueue([bytes = buffer.bytes(), mark] {
        for (const std::byte other : bytes) CHECK(other == mark);
      });
    }
    place.synchronize();
  });
}

TEST_CASE("ranks that diverge or fail are told so, and no buffer is left to a peer") {
  CHECK_THROWS_AS(run(2,
                      [](Communicator& communicator, StreamPlace& place) {
                        const std::string name = communicator.rank().value == 0 ? "a" : "b";
                        communicator.barrier({place.stream(), name});
                      }),
                  DivergenceError);
  CHECK_THROWS_WITH_AS(run(2,
                           [](Communicator& communicator, StreamPlace& place) {
                             if (communicator.rank().value == 1) throw std::runtime_error{"enough"};
                             communicator.barrier({place.stream(), "a"});
                           }),
                       "rank 1: enough", std::runtime_error);
}

TEST_CASE("the calling thread is no stream of the device") {
  CHECK_THROWS_AS(run(1,
                      [](Communicator& communicator, StreamPlace&) {
                        communicator.barrier({zerospan::calling_thread, "a"});
                      }),
                  zerospan::ConfigurationError);
}

TEST_CASE("a device that fails within a collective fails all ranks, and nobody hangs") {
  const auto dawdle = [] {
    for (int i = 0; i < 200; ++i) std::this_thread::yield();
  };
  for (const std::uint64_t nth : {1U, 2U, 3U, 5U, 8U, 13U, 21U, 34U}) {
    CAPTURE(nth);
    CHECK_THROWS_AS(run(2,
                        [&](Communicator& communicator, StreamPlace& place) {
                          if (communicator.rank().value == 0) place.gpu_->fail_from(place.gpu_->calls() + nth);
                          for (int i = 0; i < 100; ++i) {
                            if (communicator.rank().value == 1) place.enqueue(dawdle);
                            auto& buffer = place.buffer(2 * 64);
                            const zerospan::GatherPart part{buffer.data(), 64};
                            communicator.all_gather({place.stream(), "x"}, {&part, 1});
                          }
                        }),
                    zerospan_test::FakeGpuError);
  }
}

}  // namespace
