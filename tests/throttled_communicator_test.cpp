#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>

#include "../bench/throttled_communicator.hpp"
#include "support/communicator_conformance.hpp"
#include "support/thread_world.hpp"

namespace {

using namespace std::chrono_literals;
using namespace zerospan_test;
using zerospan::calling_thread;
using zerospan::ElementType;
using zerospan::Rank;
using zerospan::ThreadCommunicator;

constexpr auto throttled = [](ThreadCommunicator threads) {
  return bench::ThrottledCommunicator{std::move(threads), {.bytes_per_second = 1e9, .latency = 1us}};
};
using Throttled = ThreadWorlds<throttled, 3>;

static_assert(zerospan::TrainingCommunicator<bench::ThrottledCommunicator<ThreadCommunicator>>);

}  // namespace

TEST_CASE_TEMPLATE_INVOKE(places, Throttled);
TEST_CASE_TEMPLATE_INVOKE(gathers, Throttled);
TEST_CASE_TEMPLATE_INVOKE(scatters, Throttled);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, Throttled);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, Throttled);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, Throttled);
TEST_CASE_TEMPLATE_INVOKE(reduces, Throttled);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, Throttled);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, Throttled);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, Throttled);
TEST_CASE_TEMPLATE_INVOKE(barriers, Throttled);
TEST_CASE_TEMPLATE_INVOKE(duplicates, Throttled);
TEST_CASE_TEMPLATE_INVOKE(outlives, Throttled);
TEST_CASE_TEMPLATE_INVOKE(validates, Throttled);

namespace {

/// How long a collective of two ranks takes, each of which receives 10,000 bytes in 10 ms.
template <class Act>
std::chrono::nanoseconds duration(Act act) {
  return zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    bench::ThrottledCommunicator link{std::move(threads), {.bytes_per_second = 1e6}};
    const auto begin = std::chrono::steady_clock::now();
    act(link);
    return std::chrono::nanoseconds{std::chrono::steady_clock::now() - begin};
  })[0];
}

TEST_CASE("a collective ends no earlier than the bytes that a rank receives allow") {
  using Link = bench::ThrottledCommunicator<ThreadCommunicator>;
  const auto gather = duration([](Link& link) {
    std::array<std::byte, 20'000> buffer{};
    const zerospan::GatherPart part{buffer.data(), 10'000};
    link.all_gather({calling_thread, "weights"}, {&part, 1});
  });
  CHECK(gather >= 10ms);
  const auto reduction = duration([](Link& link) {
    std::array<float, 5'000> input{};
    std::array<float, 2'500> output{};
    link.reduce_scatter({calling_thread, "gradients"},
                        {ElementType::float32, reinterpret_cast<std::byte*>(input.data()), ElementType::float32,
                         reinterpret_cast<std::byte*>(output.data()), output.size()});
  });
  CHECK(reduction >= 10ms);
  const auto sum = duration([](Link& link) {
    std::array<std::int64_t, 1'250> integers{};
    link.all_reduce({calling_thread, "counts"}, integers);
  });
  CHECK(sum >= 10ms);
  const auto broadcast = duration([](Link& link) {
    std::array<std::byte, 10'000> bytes{};
    link.broadcast({calling_thread, "seed"}, bytes, Rank{1});
  });
  CHECK(broadcast >= 10ms);
}

TEST_CASE("duplicates are behind links too") {
  const auto gather = duration([](auto& link) {
    auto duplicate = link.duplicate();
    std::array<std::byte, 20'000> buffer{};
    const zerospan::GatherPart part{buffer.data(), 10'000};
    duplicate.all_gather({calling_thread, "weights"}, {&part, 1});
  });
  CHECK(gather >= 10ms);
}

}  // namespace
