/// What splits ranks, and what is built of the parts, behaves as every communicator does.

#include <doctest/doctest.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <utility>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/counted_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>

#include "support/communicator_conformance.hpp"
#include "support/split_conformance.hpp"
#include "support/thread_world.hpp"

using namespace zerospan_test;

namespace {

using zerospan::ThreadCommunicator;

using Grouped = zerospan::GroupedCommunicator<ThreadCommunicator>;
static_assert(zerospan::TrainingCommunicator<Grouped> && zerospan::Grouped<Grouped>);

using Hybrid = zerospan::HybridCommunicator<ThreadCommunicator>;
static_assert(zerospan::Replicates<zerospan::CountedCommunicator<Hybrid>>);
static_assert(zerospan::Grouped<zerospan::CountedCommunicator<Grouped>>);

/// Has what only communicators of enqueued collectives need.
struct Watched : ThreadCommunicator {
  explicit Watched(ThreadCommunicator threads) : ThreadCommunicator{std::move(threads)} {}
  Watched duplicate() { return Watched{ThreadCommunicator::duplicate()}; }

  void on_failure(std::function<void(std::exception_ptr)> f) { told = std::move(f); }
  void register_memory(std::byte*, zerospan::Bytes bytes) { registered = bytes.count; }
  void verify() { ++verified; }

  std::function<void(std::exception_ptr)> told;
  std::size_t registered = 0;
  int verified = 0;
};
template <class C>
constexpr bool is_watched = zerospan::ReportsFailures<C>&& zerospan::RegistersMemory<C>&& zerospan::VerifiesCalls<C>;
static_assert(is_watched<Watched> && !is_watched<ThreadCommunicator>);
static_assert(is_watched<zerospan::CountedCommunicator<Watched>>);
static_assert(is_watched<zerospan::GroupedCommunicator<Watched, ThreadCommunicator>>);
static_assert(is_watched<zerospan::HybridCommunicator<ThreadCommunicator, Watched>>);
static_assert(!is_watched<Grouped> && !is_watched<zerospan::CountedCommunicator<ThreadCommunicator>>);

constexpr auto in_groups_of_one = [](ThreadCommunicator threads) {
  return Grouped{zerospan::split_into_groups(threads, 1)};
};
constexpr auto in_one_group = [](ThreadCommunicator threads) {
  return Grouped{zerospan::split_into_groups(threads, threads.size())};
};
constexpr auto any = [](ThreadCommunicator threads) { return zerospan::AnyCommunicator{std::move(threads)}; };
constexpr auto counted = [](ThreadCommunicator threads) { return zerospan::CountedCommunicator{std::move(threads)}; };

using Threads = ThreadWorlds<threads_themselves, 4>;
using Alone = ThreadWorlds<in_groups_of_one, 4>;
using Together = ThreadWorlds<in_one_group, 4>;
using Any = ThreadWorlds<any, 3>;
using Counted = ThreadWorlds<counted, 3>;

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

TEST_CASE("what is counted of replicas and of groups trains as they do, and counts both halves of their gathers") {
  zerospan::run_ranks(4, [](ThreadCommunicator threads) {
    zerospan::CountedCommunicator hybrid{Hybrid{zerospan::split_into_groups(threads, 2)}};
    CHECK(hybrid.size() == 2);
    CHECK(hybrid.replicas() == 2);
    CHECK(hybrid.replica() == threads.rank().value / 2);

    zerospan::CountedCommunicator grouped{Grouped{zerospan::split_into_groups(threads, 2)}};
    Buffer buffer(4 * 10);
    const GatherPart part{buffer.data(), 10};
    grouped.gather_across(named("across"), {&part, 1});
    CHECK(grouped.received().count == 10);
    grouped.gather_within(named("within"), {&part, 1});
    CHECK(grouped.received().count == 10 + 20);
  });
}
