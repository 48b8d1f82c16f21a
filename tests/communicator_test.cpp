#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

#include "support/communicator_conformance.hpp"
#include "support/instruction_sets.hpp"
#include "support/thread_world.hpp"

namespace {

using namespace zerospan_test;

// The concepts: a type that has everything, and types that lack one thing each.

template <class Self>
struct Complete {
  Rank rank() const;
  int size() const;
  Self duplicate();
  void abort(const std::string&) noexcept;
  void all_gather(Collective, std::span<const GatherPart>);
  void reduce_scatter(Collective, const Reduction&);
  void reduce(Collective, const Reduction&, Rank);
  void all_reduce(Collective, const Reduction&);
  void all_reduce(Collective, std::span<std::int64_t>);
  void broadcast(Collective, std::span<std::byte>, Rank);
  void barrier(Collective);
};
struct Everything : Complete<Everything> {};
static_assert(zerospan::TrainingCommunicator<Everything>);

struct RankIsInt : Complete<RankIsInt> {
  int rank() const;
};
struct AbortMayThrow : Complete<AbortMayThrow> {
  void abort(const std::string&);
};
struct DuplicateIsAnother : Complete<Everything> {};
struct Immovable : Complete<Immovable> {
  Immovable(Immovable&&) = delete;
};
static_assert(!zerospan::Communicator<RankIsInt>);
static_assert(!zerospan::Communicator<AbortMayThrow>);
static_assert(!zerospan::Communicator<DuplicateIsAnother>);
static_assert(!zerospan::Communicator<Immovable>);

struct WithoutAllGather : Complete<WithoutAllGather> {
  void all_gather() = delete;
};
struct WithoutReduceScatter : Complete<WithoutReduceScatter> {
  void reduce_scatter() = delete;
};
struct ReducesToNobody : Complete<ReducesToNobody> {
  void reduce(Collective, const Reduction&);
};
struct AllReducesNoIntegers : Complete<AllReducesNoIntegers> {
  void all_reduce(Collective, const Reduction&);
};
struct WithoutBroadcast : Complete<WithoutBroadcast> {
  void broadcast() = delete;
};
struct WithoutBarrier : Complete<WithoutBarrier> {
  void barrier() = delete;
};
template <class C>
constexpr std::array models{zerospan::AllGathers<C>,          zerospan::ReduceScatters<C>, zerospan::Reduces<C>,
                            zerospan::AllReduces<C>,          zerospan::Broadcasts<C>,     zerospan::Barriers<C>,
                            zerospan::TrainingCommunicator<C>};
static_assert(models<WithoutAllGather> == std::array{false, true, true, true, true, true, false});
static_assert(models<WithoutReduceScatter> == std::array{true, false, true, true, true, true, false});
static_assert(models<ReducesToNobody> == std::array{true, true, false, true, true, true, false});
static_assert(models<AllReducesNoIntegers> == std::array{true, true, true, false, true, true, false});
static_assert(models<WithoutBroadcast> == std::array{true, true, true, true, false, true, false});
static_assert(models<WithoutBarrier> == std::array{true, true, true, true, true, false, false});

static_assert(!std::is_copy_constructible_v<zerospan::SelfCommunicator>);
static_assert(!std::is_copy_constructible_v<zerospan::ThreadCommunicator>);

// The worlds that the suite is run in.

struct SelfWorld {
  template <class F>
  auto run(F f) const {
    using Result = std::invoke_result_t<F&, zerospan::SelfCommunicator>;
    return std::vector<Result>(1, f(zerospan::SelfCommunicator{}));
  }
  int size = 1;
};
struct Alone {
  static constexpr std::array<SelfWorld, 1> all() { return {}; }
};
using Threads = ThreadWorlds<threads_themselves, 1, 2, 3, 4>;

}  // namespace

TEST_CASE("the oracle's values tell one order of additions from another") {
  std::size_t differing = 0;
  for (std::size_t i = 0; i < 1000; ++i) {
    const float forward = (value(0, i) + value(1, i)) + value(2, i);
    const float backward = (value(2, i) + value(1, i)) + value(0, i);
    differing += forward != backward ? 1U : 0U;
  }
  CHECK(differing > 100);
}

TEST_CASE("rank_order_sum sums unaligned operands") {
  constexpr std::size_t elements = 3001;
  for (const Types types : reduction_types) {
    std::vector<Buffer> inputs;
    std::vector<const std::byte*> pointers;
    for (int rank = 0; rank < 3; ++rank) {
      inputs.push_back(input_of(rank, elements, types.input));
      inputs.back().insert(inputs.back().begin(), std::byte{});
    }
    for (const Buffer& input : inputs) pointers.push_back(input.data() + 1);
    Buffer output(elements * element_bytes(types.output) + 1);
    zerospan::rank_order_sum(pointers, types.input, output.data() + 1, types.output, elements);
    CHECK(Buffer(output.begin() + 1, output.end()) == oracle(3, 0, elements, types));
  }
}

TEST_CASE("rank_order_sum gives the same bits in every instruction set, in place too") {
  for (const zerospan::InstructionSet set : instruction_sets()) {
    CAPTURE(zerospan::to_string(set));
    for (const Types types : reduction_types) {
      for (const int ranks : {1, 2, 3, 5}) {
        for (const std::size_t elements : {1U, 15U, 31U, 32U, 33U, 63U, 1024U, 2085U}) {
          CAPTURE(elements);
          std::vector<Buffer> inputs;
          std::vector<const std::byte*> pointers;
          for (int rank = 0; rank < ranks; ++rank) inputs.push_back(input_of(rank, elements, types.input));
          for (const Buffer& input : inputs) pointers.push_back(input.data());
          const Buffer expected = oracle(ranks, 0, elements, types);
          Buffer output(expected.size() + 1, std::byte{0xee});
          zerospan::rank_order_sum(pointers, types.input, output.data(), types.output, elements, set);
          CHECK(output.back() == std::byte{0xee});
          output.pop_back();
          CHECK(output == expected);
          if (types.input != types.output) continue;
          zerospan::rank_order_sum(pointers, types.input, inputs.back().data(), types.output, elements, set);
          CHECK(inputs.back() == expected);
        }
      }
    }
  }
}

TEST_CASE("rank_order_sum keeps NaN, infinities and the sign of zero") {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::array a{std::numeric_limits<float>::quiet_NaN(), infinity, infinity, -0.0F, -0.0F, 3e38F};
  const std::array b{1.0F, 1.0F, -infinity, -0.0F, 0.0F, 3e38F};
  std::array<float, 6> sum{};
  const std::array inputs{reinterpret_cast<const std::byte*>(a.data()), reinterpret_cast<const std::byte*>(b.data())};
  zerospan::rank_order_sum(inputs, ElementType::float32, reinterpret_cast<std::byte*>(sum.data()), ElementType::float32,
                           sum.size());
  CHECK(sum[0] != sum[0]);
  CHECK(sum[1] == infinity);
  CHECK(sum[2] != sum[2]);
  CHECK(std::bit_cast<std::uint32_t>(sum[3]) == 0x80000000U);
  CHECK(std::bit_cast<std::uint32_t>(sum[4]) == 0U);
  CHECK(sum[5] == infinity);
}

TEST_CASE("rank_order_sum of one operand copies its bits, even those of a signalling NaN") {
  const std::array<std::uint16_t, 3> bits{0x7f81U, 0x8000U, 0x1234U};
  std::array<std::uint16_t, 3> copy{};
  const std::array inputs{reinterpret_cast<const std::byte*>(bits.data())};
  zerospan::rank_order_sum(inputs, ElementType::bfloat16, reinterpret_cast<std::byte*>(copy.data()),
                           ElementType::bfloat16, bits.size());
  CHECK(copy == bits);
}

TEST_CASE_TEMPLATE_INVOKE(places, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(gathers, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(scatters, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers_in_a_row, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(barriers, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(duplicates, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(outlives, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(refuses, Alone, Threads);
TEST_CASE_TEMPLATE_INVOKE(validates, Alone, Threads);
