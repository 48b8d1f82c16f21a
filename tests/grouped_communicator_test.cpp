/// What splits ranks, and what is built of the parts, behaves as every communicator does.

#include <doctest/doctest.h>

#include <utility>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/counted_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>

#include "support/communicator_conformance.hpp"
#include "support/split_conformance.hpp"
#include "support/thread_world.hpp"

using namespace zerospan_test;

namespace {

using zerospan::ThreadCommunicator;

using Grouped = zerospan::GroupedCommunicator<ThreadCommunicator>;
static_assert(zerospan::TrainingCommunicator<Grouped> && zerospan::Grouped<Grouped>);

constexpr auto in_groups_of_one = [](ThreadCommunicator threads) {
  return Grouped{zerospan::split_into_groups(threads, 1)};
};
constexpr auto in_one_group = [](ThreadCommunicator threads) {
  return Grouped{zerospan::split_into_groups(threads, threads.size())};
};
constexpr auto any = [](ThreadCommunicator threads) { return zerospan::AnyCommunicator{std::move(threads)}; };
constexpr auto counted = [](ThreadCommunicator threads) { return zerospan::CountedCommunicator{std::move(threads)}; };

using Threads = ThreadWorld<4>;
using Alone = ThreadWorld<4, in_groups_of_one>;
using Together = ThreadWorld<4, in_one_group>;
using Any = ThreadWorld<3, any>;
using Counted = ThreadWorld<3, counted>;

}  // namespace

TEST_CASE_TEMPLATE_INVOKE(exchanges, Threads, Counted);
TEST_CASE_TEMPLATE_INVOKE(refuses_overlap, Threads, Counted);
TEST_CASE_TEMPLATE_INVOKE(splits_places, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_collect, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_cross, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_duplicate, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_outlive, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_refuse, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_abort, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_diverge, Threads);
TEST_CASE_TEMPLATE_INVOKE(splits_end, Threads);

TEST_CASE_TEMPLATE_INVOKE(places, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(gathers, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(scatters, Alone, Any, Counted);  // one group leaves partial sums in its inputs
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, Alone, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(reduces, Alone, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(barriers, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(duplicates, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(outlives, Alone, Together, Any, Counted);
TEST_CASE_TEMPLATE_INVOKE(refuses, Any, Counted);
