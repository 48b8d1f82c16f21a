#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/communicator_levels.hpp>
#include <zerospan/comm/figures.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/core/error.hpp>

#include "support/figures.hpp"

namespace {

using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan_test::figures_are_right;

constexpr Collective what{calling_thread, "figures"};

/// Whether figures are right over 4 ranks of what `make` makes of their ThreadCommunicator.
template <class Make>
void check_over_four(Make make, std::array<int, 4> order) {
  zerospan::run_ranks(4, [&](ThreadCommunicator threads) {
    const int rank = threads.rank().value;
    auto communicator = make(std::move(threads));
    CHECK(figures_are_right(communicator, rank, order));
  });
}

}  // namespace

TEST_CASE("sums and means of figures are those in rank order, on every rank") {
  check_over_four([](ThreadCommunicator threads) { return threads; }, {0, 1, 2, 3});
  zerospan::SelfCommunicator alone;
  CHECK(figures_are_right(alone, 0, std::array{0}));
}

TEST_CASE("each rank counts once where ranks stand in groups, and where groups are replicas") {
  const auto grouped = [](ThreadCommunicator threads) {
    return zerospan::GroupedCommunicator{zerospan::split_into_groups(threads, 2)};
  };
  const auto hybrid = [](ThreadCommunicator threads) {
    return zerospan::HybridCommunicator{zerospan::split_into_groups(threads, 2)};
  };
  check_over_four(grouped, {0, 2, 1, 3});  // its ranks are numbered by their places in their groups first
  check_over_four(hybrid, {0, 1, 2, 3});
  check_over_four([&](ThreadCommunicator threads) { return zerospan::AnyCommunicator{hybrid(std::move(threads))}; },
                  {0, 1, 2, 3});
}

TEST_CASE("a figure that is no number stays none, and one alone keeps its bits") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  zerospan::run_ranks(3, [&](ThreadCommunicator ranks) {
    const bool is_odd_one = ranks.rank() == Rank{1};
    CHECK(std::isnan(zerospan::mean(ranks, what, is_odd_one ? std::nanf("") : 1.0F)));
    CHECK(zerospan::mean(ranks, what, is_odd_one ? infinity : 1.0F) == infinity);
    CHECK(zerospan::mean(ranks, what, std::numeric_limits<float>::max()) == std::numeric_limits<float>::max());
  });
  zerospan::SelfCommunicator alone;
  CHECK(std::signbit(zerospan::mean(alone, what, -0.0F)));
  const float quiet = std::bit_cast<float>(std::uint32_t{0x7fc12345});
  CHECK(std::isnan(zerospan::mean(alone, what, quiet)));
}

TEST_CASE("ranks that sum different counts of figures are told so, and counts that cannot be are refused") {
  CHECK_THROWS_AS(zerospan::run_ranks(2,
                                      [](ThreadCommunicator ranks) {
                                        std::vector<float> figures(static_cast<std::size_t>(ranks.rank().value) + 1);
                                        zerospan::all_reduce(ranks, what, figures);
                                      }),
                  zerospan::DivergenceError);
  zerospan::SelfCommunicator alone;
  float figure = 0;
  CHECK_THROWS_AS(zerospan::all_reduce(alone, what, std::span{&figure, std::size_t{1} << 61}),
                  zerospan::ConfigurationError);
  CHECK_NOTHROW(zerospan::all_reduce(alone, what, std::span<float>{}));
}
