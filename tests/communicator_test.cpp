#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/rank_order_sum.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/philox.hpp>

namespace {

using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::float16;
using zerospan::GatherPart;
using zerospan::Rank;
using zerospan::Reduction;

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

// The worlds that the suite is run in: `run(f)` gives every rank's `f(communicator)`.

struct SelfWorld {
  static constexpr int size = 1;
  template <class F>
  static auto run(F f) {
    using Result = std::invoke_result_t<F&, zerospan::SelfCommunicator>;
    return std::vector<Result>(1, f(zerospan::SelfCommunicator{}));
  }
};

template <int Size>
struct ThreadWorld {
  static constexpr int size = Size;
  template <class F>
  static auto run(F f) {
    return zerospan::run_ranks(Size, f);
  }
};

using Buffer = std::vector<std::byte>;

constexpr Collective named(const char* name) { return {calling_thread, name}; }

constexpr std::array<std::size_t, 7> element_counts{1, 7, 64, 1000, 1024, 4099, 0};

struct Types {
  ElementType input;
  ElementType output;
};
constexpr std::array<Types, 5> reduction_types{{{ElementType::float32, ElementType::float32},
                                                {ElementType::bfloat16, ElementType::bfloat16},
                                                {ElementType::bfloat16, ElementType::float32},
                                                {ElementType::float16, ElementType::float16},
                                                {ElementType::float16, ElementType::float32}}};
constexpr std::array element_types{ElementType::float32, ElementType::bfloat16, ElementType::float16};

/// Values of either sign whose magnitudes span 24 octaves, so that the order of additions shows in the bits.
float value(int rank, std::size_t i) {
  const auto words = zerospan::philox(7, static_cast<std::uint64_t>(rank), i);
  const int exponent = 127 - 12 + static_cast<int>(words[0] % 24);
  return std::bit_cast<float>((words[1] & 0x807fffffU) | (static_cast<std::uint32_t>(exponent) << 23));
}

float rounded(float x, ElementType type) {
  if (type == ElementType::float32) return x;
  return type == ElementType::bfloat16 ? static_cast<float>(bfloat16{x}) : static_cast<float>(float16{x});
}

void append(Buffer& buffer, float x, ElementType type) {
  std::array<std::byte, 4> bytes{};
  if (type == ElementType::float32) {
    std::memcpy(bytes.data(), &x, 4);
  } else {
    const std::uint16_t narrow = type == ElementType::bfloat16 ? bfloat16{x}.bits : float16{x}.bits;
    std::memcpy(bytes.data(), &narrow, 2);
  }
  buffer.insert(buffer.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(element_bytes(type)));
}

Buffer input_of(int rank, std::size_t elements, ElementType type) {
  Buffer buffer;
  for (std::size_t i = 0; i < elements; ++i) append(buffer, value(rank, i), type);
  return buffer;
}

/// The definition of a reduction, element by element.
Buffer oracle(int ranks, std::size_t first, std::size_t elements, Types types) {
  Buffer buffer;
  for (std::size_t i = first; i < first + elements; ++i) {
    float sum = rounded(value(0, i), types.input);
    for (int rank = 1; rank < ranks; ++rank) sum += rounded(value(rank, i), types.input);
    append(buffer, sum, types.output);
  }
  return buffer;
}

std::size_t as_size(int n) { return static_cast<std::size_t>(n); }

/// What a collective of a failed group throws.
template <class F>
std::string rank_failed_message(F call) {
  try {
    call();
  } catch (const zerospan::RankFailedError& error) {
    return "rank " + std::to_string(error.culprit().value) + " is at fault: " + error.what();
  }
  return "no error";
}

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

TEST_CASE_TEMPLATE_DEFINE("every rank knows its place", World, places) {
  const auto ranks = World::run([](auto communicator) {
    auto child = communicator.duplicate();
    return std::array{communicator.rank().value, communicator.size(), child.rank().value, child.size()};
  });
  REQUIRE(ranks.size() == as_size(World::size));
  for (int rank = 0; rank < World::size; ++rank) {
    CHECK(ranks[as_size(rank)] == std::array{rank, World::size, rank, World::size});
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_gather gives every rank every shard of every part", World, gathers) {
  const auto shard_byte = [](int rank, std::size_t part, std::size_t i) {
    return static_cast<std::byte>(zerospan::philox(part, as_size(rank), i)[0]);
  };
  const auto fill = [&](std::vector<Buffer>& buffers, auto holds) {
    for (std::size_t part = 0; part < element_counts.size(); ++part) {
      const std::size_t bytes = element_counts[part];
      buffers.emplace_back(bytes * as_size(World::size) + 16, std::byte{0xee});  // 16 bytes that nobody may touch
      for (int rank = 0; rank < World::size; ++rank) {
        if (!holds(rank)) continue;
        for (std::size_t i = 0; i < bytes; ++i) {
          buffers.back()[as_size(rank) * bytes + i] = shard_byte(rank, part, i);
        }
      }
    }
  };
  std::vector<Buffer> expected;
  fill(expected, [](int) { return true; });

  const auto gathered = World::run([&](auto communicator) {
    std::vector<Buffer> buffers;
    fill(buffers, [&](int rank) { return rank == communicator.rank().value; });
    std::vector<GatherPart> parts;
    for (std::size_t i = 0; i < buffers.size(); ++i) parts.push_back({buffers[i].data(), element_counts[i]});
    communicator.all_gather(named("parts"), parts);
    communicator.all_gather(named("nothing"), {});
    return buffers;
  });
  for (const auto& buffers : gathered) CHECK(buffers == expected);
}

TEST_CASE_TEMPLATE_DEFINE("reduce_scatter gives each rank its shard of the sum", World, scatters) {
  for (const std::size_t elements : element_counts) {
    for (const Types types : reduction_types) {
      CAPTURE(elements);
      CAPTURE(to_string(types.input));
      CAPTURE(to_string(types.output));
      const auto outputs = World::run([&](auto communicator) {
        const Buffer input = input_of(communicator.rank().value, as_size(World::size) * elements, types.input);
        const Buffer before = input;
        Buffer output(elements * element_bytes(types.output));
        communicator.reduce_scatter(named("gradient"),
                                    {types.input, input.data(), types.output, output.data(), elements});
        return std::pair{output, input == before};
      });
      for (int rank = 0; rank < World::size; ++rank) {
        CHECK(outputs[as_size(rank)].first == oracle(World::size, as_size(rank) * elements, elements, types));
        CHECK(outputs[as_size(rank)].second);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce_scatter may write to the rank's own shard", World, scatters_in_place) {
  for (const std::size_t elements : element_counts) {
    for (const ElementType type : element_types) {
      const std::size_t bytes = elements * element_bytes(type);
      const auto buffers = World::run([&](auto communicator) {
        Buffer buffer = input_of(communicator.rank().value, as_size(World::size) * elements, type);
        std::byte* const own = buffer.data() + as_size(communicator.rank().value) * bytes;
        communicator.reduce_scatter(named("gradient"), {type, buffer.data(), type, own, elements});
        return buffer;
      });
      for (int rank = 0; rank < World::size; ++rank) {
        Buffer expected = input_of(rank, as_size(World::size) * elements, type);
        const Buffer sum = oracle(World::size, as_size(rank) * elements, elements, {type, type});
        std::ranges::copy(sum, expected.begin() + static_cast<std::ptrdiff_t>(as_size(rank) * bytes));
        CHECK(buffers[as_size(rank)] == expected);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce gives the root the sum, and leaves the others' outputs alone", World,
                          reduces_to_root) {
  for (int root = 0; root < World::size; ++root) {
    for (const std::size_t elements : element_counts) {
      for (const Types types : reduction_types) {
        CAPTURE(root);
        CAPTURE(elements);
        const auto outputs = World::run([&](auto communicator) {
          const Buffer input = input_of(communicator.rank().value, elements, types.input);
          const Buffer before = input;
          Buffer output(elements * element_bytes(types.output), std::byte{0xee});
          communicator.reduce(named("gradient"), {types.input, input.data(), types.output, output.data(), elements},
                              Rank{root});
          return std::pair{output, input == before};
        });
        for (int rank = 0; rank < World::size; ++rank) {
          const auto& [output, input_is_unchanged] = outputs[as_size(rank)];
          const Buffer untouched(output.size(), std::byte{0xee});
          CHECK(output == (rank == root ? oracle(World::size, 0, elements, types) : untouched));
          CHECK(input_is_unchanged);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce may be in place at the root", World, reduces_to_root_in_place) {
  for (const std::size_t elements : element_counts) {
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
      constexpr int root = World::size - 1;
      const auto buffers = World::run([&](auto communicator) {
        Buffer buffer = input_of(communicator.rank().value, elements, type);
        std::byte* const output = communicator.rank().value == root ? buffer.data() : nullptr;
        communicator.reduce(named("gradient"), {type, buffer.data(), type, output, elements}, Rank{root});
        return buffer;
      });
      for (int rank = 0; rank < World::size; ++rank) {
        const Buffer expected =
            rank == root ? oracle(World::size, 0, elements, {type, type}) : input_of(rank, elements, type);
        CHECK(buffers[as_size(rank)] == expected);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce gives every rank the sum", World, reduces) {
  for (const std::size_t elements : element_counts) {
    for (const Types types : reduction_types) {
      CAPTURE(elements);
      const auto outputs = World::run([&](auto communicator) {
        const Buffer input = input_of(communicator.rank().value, elements, types.input);
        const Buffer before = input;
        Buffer output(elements * element_bytes(types.output));
        communicator.all_reduce(named("gradient"), {types.input, input.data(), types.output, output.data(), elements});
        return std::pair{output, input == before};
      });
      for (const auto& [output, input_is_unchanged] : outputs) {
        CHECK(output == oracle(World::size, 0, elements, types));
        CHECK(input_is_unchanged);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce may be in place, on some ranks or on all", World, reduces_in_place) {
  for (const std::size_t elements : element_counts) {
    for (const ElementType type : element_types) {
      for (const int ranks_in_place : {1, World::size}) {
        const auto outputs = World::run([&](auto communicator) {
          Buffer input = input_of(communicator.rank().value, elements, type);
          Buffer output(input.size());
          const bool in_place = communicator.rank().value < ranks_in_place;
          Buffer& target = in_place ? input : output;
          communicator.all_reduce(named("gradient"), {type, input.data(), type, target.data(), elements});
          return target;
        });
        for (const Buffer& output : outputs) CHECK(output == oracle(World::size, 0, elements, {type, type}));
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce sums integers exactly", World, reduces_integers) {
  for (const std::size_t count : element_counts) {
    const auto term = [](int rank, std::size_t i) {
      return (std::int64_t{1} << 53) + 1 - 3 * static_cast<std::int64_t>(i) * (rank + 1);
    };
    const auto sums = World::run([&](auto communicator) {
      std::vector<std::int64_t> integers;
      for (std::size_t i = 0; i < count; ++i) integers.push_back(term(communicator.rank().value, i));
      communicator.all_reduce(named("counts"), integers);
      return integers;
    });
    std::vector<std::int64_t> expected(count, 0);
    for (std::size_t i = 0; i < count; ++i) {
      for (int rank = 0; rank < World::size; ++rank) expected[i] += term(rank, i);
    }
    for (const auto& sum : sums) CHECK(sum == expected);
  }
}

TEST_CASE_TEMPLATE_DEFINE("broadcast gives every rank the root's bytes", World, broadcasts) {
  for (int root = 0; root < World::size; ++root) {
    for (const std::size_t bytes : element_counts) {
      const auto copies = World::run([&](auto communicator) {
        Buffer buffer(bytes, static_cast<std::byte>(communicator.rank().value + 1));
        communicator.broadcast(named("step"), buffer, Rank{root});
        return buffer;
      });
      for (const Buffer& copy : copies) CHECK(copy == Buffer(bytes, static_cast<std::byte>(root + 1)));
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("no rank leaves a barrier before all have entered", World, barriers) {
  constexpr int rounds = 200;
  std::array<std::atomic<int>, rounds> entered{};
  const auto all_were_in = World::run([&](auto communicator) {
    int complete = 0;
    for (auto& round : entered) {
      ++round;
      communicator.barrier(named("round"));
      complete += round == World::size ? 1 : 0;
    }
    return complete;
  });
  for (const int complete : all_were_in) CHECK(complete == rounds);
}

TEST_CASE_TEMPLATE_DEFINE("a duplicate is independent of its origin", World, duplicates) {
  constexpr int rounds = 100;
  const auto sums = World::run([](auto communicator) {
    auto child = communicator.duplicate();
    auto grandchild = child.duplicate();
    const auto sum_up = [](auto& c, std::int64_t step) {
      std::vector<std::int64_t> total(1, 0);
      for (int i = 0; i < rounds; ++i) {
        std::vector<std::int64_t> term(1, step * i);
        c.all_reduce(named("term"), term);
        total[0] += term[0];
      }
      return total[0];
    };
    std::array<std::int64_t, 3> totals{};
    {
      const std::jthread other{[&] { totals[1] = sum_up(child, 1000); }};
      totals[0] = sum_up(communicator, 1);
    }
    totals[2] = sum_up(grandchild, 1'000'000);
    return totals;
  });
  constexpr std::int64_t one = World::size * rounds * (rounds - 1) / 2;
  for (const auto& totals : sums) CHECK(totals == std::array<std::int64_t, 3>{one, 1000 * one, 1'000'000 * one});
}

TEST_CASE_TEMPLATE_DEFINE("a duplicate outlives its origin", World, outlives) {
  const auto sums = World::run([](auto communicator) {
    auto child = communicator.duplicate();
    { [[maybe_unused]] const auto gone = std::move(communicator); }
    std::vector<std::int64_t> ones(1, 1);
    child.all_reduce(named("ranks"), ones);
    return ones[0];
  });
  for (const std::int64_t sum : sums) CHECK(sum == World::size);
}

TEST_CASE_TEMPLATE_DEFINE("an aborted communicator and its duplicates refuse everything", World, refuses) {
  const auto messages = World::run([](auto communicator) {
    auto child = communicator.duplicate();
    child.barrier(named("all are here"));
    child.abort("out of cheese");
    std::vector<std::string> caught;
    Buffer bytes(16);
    const GatherPart part{bytes.data(), bytes.size() / as_size(World::size)};
    const Reduction reduction{ElementType::float32, bytes.data(), ElementType::float32, bytes.data(), 0};
    std::vector<std::int64_t> integers(1);
    caught.push_back(rank_failed_message([&] { communicator.all_gather(named("a"), std::span{&part, 1}); }));
    caught.push_back(rank_failed_message([&] { communicator.reduce_scatter(named("b"), reduction); }));
    caught.push_back(rank_failed_message([&] { communicator.all_reduce(named("c"), reduction); }));
    caught.push_back(rank_failed_message([&] { communicator.all_reduce(named("d"), integers); }));
    caught.push_back(rank_failed_message([&] { communicator.broadcast(named("e"), bytes, Rank{0}); }));
    caught.push_back(rank_failed_message([&] { communicator.barrier(named("f")); }));
    caught.push_back(rank_failed_message([&] { communicator.reduce(named("r"), reduction, Rank{0}); }));
    caught.push_back(rank_failed_message([&] { communicator.duplicate(); }));
    caught.push_back(rank_failed_message([&] { child.barrier(named("g")); }));
    return caught;
  });
  const std::string part_bytes = std::to_string(16 / World::size);
  const std::array<std::string, 9> calls{"all-gather 'a' of " + part_bytes + " bytes a rank (#1)",
                                         "reduce-scatter 'b' of 0 float32 elements a rank (#1)",
                                         "all-reduce 'c' of 0 float32 elements (#1)",
                                         "all-reduce 'd' of 1 integers (#1)",
                                         "broadcast 'e' of 16 bytes from rank 0 (#1)",
                                         "barrier 'f' (#1)",
                                         "reduce 'r' of 0 float32 elements to rank 0 (#1)",
                                         "duplicate (#1)",
                                         "barrier 'g' (#1)"};
  const std::string culprit = messages[0][0].substr(0, 6);  // whichever rank was first to abort
  for (int rank = 0; rank < World::size; ++rank) {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      CHECK(messages[as_size(rank)][i] == culprit + " is at fault: " + culprit +
                                              " failed (out of cheese) before rank " + std::to_string(rank) +
                                              " called " + calls[i]);
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("operands that no collective has are refused, and harm nothing", World, validates) {
  const auto refusals = World::run([](auto communicator) {
    Buffer bytes(1024);
    const std::size_t shard = bytes.size() / as_size(World::size) / 4;
    const auto refused = [](auto call) {
      try {
        call();
      } catch (const zerospan::ConfigurationError&) {
        return 1;
      }
      return 0;
    };
    const Reduction narrowing{ElementType::float32, bytes.data(), ElementType::bfloat16, bytes.data(), 1};
    const Reduction askew{ElementType::float32, bytes.data(), ElementType::float32, bytes.data() + 4, shard};
    const Reduction widening{ElementType::bfloat16, bytes.data(), ElementType::float32, bytes.data(), shard};
    int count = 0;
    for (const Reduction& reduction : {narrowing, askew, widening}) {
      count += refused([&] { communicator.reduce_scatter(named("r"), reduction); });
      count += refused([&] { communicator.all_reduce(named("r"), reduction); });
      count += refused([&] { communicator.reduce(named("r"), reduction, communicator.rank()); });
    }
    const Reduction none{ElementType::float32, bytes.data(), ElementType::float32, bytes.data(), 0};
    count += refused([&] { communicator.reduce(named("r"), none, Rank{World::size}); });
    count += refused([&] { communicator.reduce(named("r"), none, Rank{-1}); });
    count += refused([&] { communicator.broadcast(named("b"), bytes, Rank{World::size}); });
    count += refused([&] { communicator.broadcast(named("b"), bytes, Rank{-1}); });
    communicator.barrier(named("in good health"));
    return count;
  });
  for (const int count : refusals) CHECK(count == 13);
}

#define ZEROSPAN_TEST_WORLDS SelfWorld, ThreadWorld<1>, ThreadWorld<2>, ThreadWorld<3>, ThreadWorld<4>
TEST_CASE_TEMPLATE_INVOKE(places, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(gathers, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(scatters, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(barriers, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(duplicates, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(outlives, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(refuses, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(validates, ZEROSPAN_TEST_WORLDS);
