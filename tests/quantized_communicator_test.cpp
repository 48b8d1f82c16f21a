#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/counted_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/comm/stream_thread_communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/kernels/block_quantization.hpp>

#include "support/communicator_conformance.hpp"
#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_place.hpp"
#include "support/sample.hpp"

using namespace zerospan_test;

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::CountedCommunicator;
using zerospan::encoded_bytes;
using zerospan::HostDevice;
using zerospan::QuantizationOptions;
using zerospan::QuantizedCommunicator;
using zerospan::QuantizedType;
using zerospan::SelfCommunicator;
using zerospan::ThreadCommunicator;

using Counted = CountedCommunicator<ThreadCommunicator>;
template <class C>
using Quantized = QuantizedCommunicator<C, HostDevice>;

static_assert(zerospan::TrainingCommunicator<Quantized<ThreadCommunicator>>);
static_assert(zerospan::ExchangesSlices<Quantized<ThreadCommunicator>>);
static_assert(zerospan::Splits<Quantized<ThreadCommunicator>> && !zerospan::Splits<Quantized<Counted>>);
static_assert(!zerospan::ReportsFailures<Quantized<ThreadCommunicator>>);

/// What a communicator must have to be quantized.
template <class C>
concept CanBeQuantized = requires {
  typename Quantized<C>;
};
static_assert(CanBeQuantized<SelfCommunicator>);
static_assert(!CanBeQuantized<zerospan::GroupedCommunicator<ThreadCommunicator>>);  // its levels can

constexpr std::array quantized_types{QuantizedType::int8, QuantizedType::int4};
constexpr QuantizationOptions both{.gather = QuantizedType::int8, .reduce = QuantizedType::int4, .scratch = 64_KiB};

/// A rank's device, on which a communicator is made of that of its thread.
template <class F>
auto run_quantized(int ranks, const QuantizationOptions& options, F f) {
  return zerospan::run_ranks(ranks, [&](ThreadCommunicator threads) {
    HostDevice device{{.device_budget = 4_MiB, .host_budget = 64_KiB}};
    return f(Quantized<ThreadCommunicator>{std::move(threads), device, options});
  });
}

/// Quantizes all-gathers of what is approximable, and nothing that the suites do is.
constexpr QuantizationOptions gathers_alone{.gather = QuantizedType::int4, .scratch = 64_KiB};

struct World {
  template <class F>
  auto run(F f) const {
    return run_quantized(size, options, f);
  }
  int size;
  QuantizationOptions options = gathers_alone;
};

struct Gathering {
  static std::array<World, 2> all() { return {World{1}, World{3}}; }
};

/// Quantizes reduce-scatters too.
struct Reducing {
  static std::array<World, 1> all() { return {World{3, both}}; }
};

Buffer decoded(const Buffer& elements, ElementType element, QuantizedType type) {
  const std::size_t n = elements.size() / element_bytes(element);
  Buffer codes(encoded_bytes(n, type));
  zerospan::encode_blocks(calling_thread, element, elements.data(), type, codes.data(), n);
  Buffer result(elements.size());
  zerospan::decode_blocks(calling_thread, codes.data(), type, element, result.data(), n);
  return result;
}

/// Slice `rank` of the sum of the operands of all ranks, each slice of which is encoded once.
Buffer quantized_sum(int ranks, int rank, std::size_t elements, Types types, QuantizedType type) {
  std::vector<Buffer> codes;
  std::vector<const std::byte*> inputs;
  for (int from = 0; from < ranks; ++from) {
    const Buffer operand = input_of(from, as_size(ranks) * elements, types.input);
    const std::byte* const slice = operand.data() + as_size(rank) * elements * element_bytes(types.input);
    codes.emplace_back(encoded_bytes(elements, type));
    zerospan::encode_blocks(calling_thread, types.input, slice, type, codes.back().data(), elements);
  }
  for (const Buffer& c : codes) inputs.push_back(c.data());
  Buffer sum(elements * element_bytes(types.output));
  zerospan::sum_blocks(calling_thread, inputs, type, types.output, sum.data(), elements);
  return sum;
}

/// Scratch memory for one block of each rank at a time, for some, and for all.
constexpr std::array scratches{Bytes{8 * 260}, Bytes{5000}, 256_KiB};

}  // namespace

TEST_CASE_TEMPLATE_INVOKE(places, Gathering);
TEST_CASE_TEMPLATE_INVOKE(gathers, Gathering);
TEST_CASE_TEMPLATE_INVOKE(scatters, Gathering);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, Gathering);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, Gathering);
TEST_CASE_TEMPLATE_INVOKE(reduces, Gathering);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, Gathering);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, Gathering);
TEST_CASE_TEMPLATE_INVOKE(barriers, Gathering);
TEST_CASE_TEMPLATE_INVOKE(duplicates, Gathering);
TEST_CASE_TEMPLATE_INVOKE(outlives, Gathering);
TEST_CASE_TEMPLATE_INVOKE(refuses, Gathering, Reducing);
TEST_CASE_TEMPLATE_INVOKE(validates, Gathering, Reducing);

TEST_CASE("an all-gather gives every rank the decoded shards of all, its own as well, and exact parts to the bit") {
  constexpr std::array<std::size_t, 6> counts{700, 0, 1, 256, 1024, 3};
  for (const int ranks : {2, 3, 4}) {
    for (const QuantizedType type : quantized_types) {
      for (const ElementType element : element_types) {
        for (const Bytes scratch : scratches) {
          const auto is_exact = [](std::size_t part) { return part % 3 == 2; };
          const auto gathered = run_quantized(ranks, {.gather = type, .scratch = scratch}, [&](auto communicator) {
            std::vector<Buffer> buffers;
            std::vector<GatherPart> parts;
            for (std::size_t i = 0; i < counts.size(); ++i) {
              const std::size_t bytes = counts[i] * element_bytes(element);
              buffers.emplace_back(bytes * as_size(ranks) + 16, std::byte{0xee});
              const int rank = communicator.rank().value;
              std::ranges::copy(input_of(rank, counts[i], element),
                                buffers[i].begin() + static_cast<std::ptrdiff_t>(as_size(rank) * bytes));
            }
            for (std::size_t i = 0; i < counts.size(); ++i) {
              parts.push_back({buffers[i].data(), counts[i] * element_bytes(element)});
              if (!is_exact(i)) parts.back().approximable = element;
            }
            communicator.all_gather(named("parts"), parts);
            return buffers;
          });
          for (std::size_t i = 0; i < counts.size(); ++i) {
            Buffer expected;
            for (int rank = 0; rank < ranks; ++rank) {
              const Buffer shard = input_of(rank, counts[i], element);
              std::ranges::copy(is_exact(i) ? shard : decoded(shard, element, type), std::back_inserter(expected));
            }
            expected.resize(expected.size() + 16, std::byte{0xee});
            for (const auto& buffers : gathered) CHECK(buffers[i] == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("a reduce-scatter sums decoded slices in rank order, in place or not, whatever the scratch memory") {
  zerospan_test::Sample sample{7};
  for (const int ranks : {2, 3, 4}) {
    for (const QuantizedType type : quantized_types) {
      for (const Types types : reduction_types) {
        for (const std::size_t elements : element_counts) {
          for (const Bytes scratch : scratches) {
            if (!sample.takes()) continue;
            CAPTURE(elements);
            const auto sums = run_quantized(ranks, {.reduce = type, .scratch = scratch}, [&](auto communicator) {
              Buffer input = input_of(communicator.rank().value, as_size(ranks) * elements, types.input);
              const Buffer before = input;
              Buffer output(elements * element_bytes(types.output) + 16, std::byte{0xee});
              communicator.reduce_scatter(named("gradient"),
                                          {types.input, input.data(), types.output, output.data(), elements});
              CHECK(input == before);
              CHECK(std::all_of(output.end() - 16, output.end(), [](std::byte b) { return b == std::byte{0xee}; }));
              output.erase(output.end() - 16, output.end());
              if (types.input != types.output) return output;
              std::byte* const own = input.data() + as_size(communicator.rank().value) * output.size();
              communicator.reduce_scatter(named("in place"), {types.input, input.data(), types.output, own, elements});
              CHECK(std::equal(output.begin(), output.end(), own));
              return output;
            });
            for (int rank = 0; rank < ranks; ++rank) {
              CHECK(sums[as_size(rank)] == quantized_sum(ranks, rank, elements, types, type));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("what is not finite on any rank makes its block of the sum NaN, and no other") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const auto nans = run_quantized(2, both, [&](auto communicator) {
      std::vector<float> input(2 * 1024, 1.0F);
      if (communicator.rank().value == 1) input[1024 + 300] = bad;
      std::vector<float> sum(1024);
      communicator.reduce_scatter(
          named("gradient"), {ElementType::float32, reinterpret_cast<std::byte*>(input.data()), ElementType::float32,
                              reinterpret_cast<std::byte*>(sum.data()), sum.size()});
      std::vector<std::size_t> found;
      for (std::size_t i = 0; i < sum.size(); ++i) {
        if (std::isnan(sum[i])) found.push_back(i);
      }
      return found;
    });
    CHECK(nans[0].empty());
    REQUIRE(nans[1].size() == 256);
    CHECK(nans[1].front() == 256);
  }
}

TEST_CASE("what crosses the wire is the codes and the scales, to the byte") {
  constexpr std::size_t elements = 4096;
  constexpr int ranks = 4;
  /// Of one gather and one reduce-scatter of bfloat16.
  const auto received = [](const QuantizationOptions& options) {
    return zerospan::run_ranks(ranks, [&](ThreadCommunicator threads) {
      HostDevice device{{.device_budget = 4_MiB, .host_budget = 64_KiB}};
      Counted probe{std::move(threads)};
      Quantized<Counted> communicator{probe.duplicate(), device, options};
      Buffer buffer(2 * ranks * elements);
      const GatherPart part{buffer.data(), 2 * elements, ElementType::bfloat16};
      communicator.all_gather(named("weights"), {&part, 1});
      const std::size_t gathered = probe.received().count;
      Buffer sum(4 * elements);
      communicator.reduce_scatter(named("gradient"),
                                  {ElementType::bfloat16, buffer.data(), ElementType::float32, sum.data(), elements});
      return std::array{gathered, probe.received().count - gathered};
    });
  };
  const auto expect = [&](const QuantizationOptions& options, std::size_t gathered, std::size_t scattered) {
    for (const auto& counts : received(options)) CHECK(counts == std::array{3 * gathered, 3 * scattered});
  };
  for (const Bytes scratch : {2_MiB, Bytes{6000}}) {
    expect({.scratch = scratch}, 2 * elements, 2 * elements);
    expect({.gather = QuantizedType::int8, .scratch = scratch}, elements + elements / 256 * 4, 2 * elements);
    expect({.reduce = QuantizedType::int4, .scratch = scratch}, 2 * elements, elements / 2 + elements / 256 * 4);
    expect({.gather = QuantizedType::int4, .reduce = QuantizedType::int8, .scratch = scratch},
           encoded_bytes(elements, QuantizedType::int4), encoded_bytes(elements, QuantizedType::int8));
  }
}

TEST_CASE("the scratch memory is taken once, of each duplicate, and returns") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 64_KiB}};
  {
    const auto threads = [] { return std::move(zerospan::make_thread_communicators(2)[0]); };
    const Quantized<ThreadCommunicator> communicator{threads(), device, both};
    CHECK(device.memory().used() == both.scratch);
    CHECK_THROWS_AS(Quantized<ThreadCommunicator>(threads(), device, {.gather = QuantizedType::int8, .scratch = 1_MiB}),
                    zerospan::BudgetError);
    CHECK_THROWS_WITH_AS(
        Quantized<ThreadCommunicator>(threads(), device, {.reduce = QuantizedType::int8, .scratch = Bytes{1039}}),
        doctest::Contains("1039 bytes, holds no block of int8 for every rank: 1040 bytes would"),
        zerospan::ConfigurationError);
    Quantized<SelfCommunicator> alone{SelfCommunicator{}, device, both};
    const Quantized<ThreadCommunicator> exact{threads(), device, {}};
    CHECK(device.memory().used() == both.scratch);
  }
  CHECK(device.memory().used() == Bytes{0});
}

TEST_CASE("duplicates may be used at once, and parts of a split") {
  run_quantized(4, both, [](auto communicator) {
    constexpr std::size_t elements = 3000;
    auto twin = communicator.duplicate();
    auto half = communicator.split({communicator.rank().value / 2, communicator.rank().value});
    CHECK(half.size() == 2);
    const auto reduce = [](auto& c) {
      for (int i = 0; i < (zerospan_test::is_sanitized ? 3 : 20); ++i) {
        Buffer input = input_of(c.rank().value, as_size(c.size()) * elements, ElementType::bfloat16);
        Buffer sum(elements * 4);
        c.reduce_scatter(named("x"), {ElementType::bfloat16, input.data(), ElementType::float32, sum.data(), elements});
        const Types types{ElementType::bfloat16, ElementType::float32};
        CHECK(sum == quantized_sum(c.size(), c.rank().value, elements, types, QuantizedType::int4));
      }
    };
    const std::jthread one{[&] { reduce(twin); }};
    const std::jthread other{[&] { reduce(half); }};
    reduce(communicator);
  });
}

TEST_CASE("ranks that quantize differently, or other sizes, notice") {
  const auto diverge = [](auto options_of, auto elements_of) {
    zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
      const int rank = threads.rank().value;
      HostDevice device{{.device_budget = 1_MiB, .host_budget = 64_KiB}};
      Quantized<ThreadCommunicator> communicator{std::move(threads), device, options_of(rank)};
      Buffer buffer(4096);
      const GatherPart part{buffer.data(), 2 * elements_of(rank), ElementType::bfloat16};
      communicator.all_gather(named("weights"), {&part, 1});
    });
  };
  const auto same_size = [](int) { return std::size_t{300}; };
  const auto gather = [](std::optional<QuantizedType> type) {
    return QuantizationOptions{.gather = type, .scratch = 8_KiB};
  };
  CHECK_THROWS_AS(diverge([&](int rank) { return gather(quantized_types[as_size(rank)]); }, same_size),
                  zerospan::DivergenceError);
  CHECK_THROWS_AS(diverge([&](int rank) { return rank == 0 ? gather(QuantizedType::int8) : gather({}); }, same_size),
                  zerospan::DivergenceError);
  CHECK_THROWS_WITH_AS(diverge([&](int) { return gather(QuantizedType::int8); },
                               [](int rank) { return std::size_t{300} + as_size(rank); }),  // as many blocks
                       doctest::Contains("weights (int8 for 602 bytes a rank)"), zerospan::DivergenceError);
}

TEST_CASE("shards that are no whole elements are refused") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 64_KiB}};
  Quantized<ThreadCommunicator> communicator{std::move(zerospan::make_thread_communicators(2)[0]), device, both};
  Buffer buffer(64);
  const GatherPart part{buffer.data(), 7, ElementType::bfloat16};
  CHECK_THROWS_WITH_AS(communicator.all_gather(named("weights"), {&part, 1}),
                       doctest::Contains("'weights' has shards of 7 bytes, which are not whole elements of bfloat16"),
                       zerospan::ConfigurationError);
}

TEST_CASE("across groups alone: the groups' own links stay exact, and all ranks get the same bits") {
  constexpr std::size_t elements = 1500;
  const auto gathered = zerospan::run_ranks(4, [](ThreadCommunicator threads) {
    HostDevice device{{.device_budget = 1_MiB, .host_budget = 64_KiB}};
    auto levels = zerospan::split_into_groups(threads, 2);
    using Levels = zerospan::CommunicatorLevels<ThreadCommunicator, Quantized<ThreadCommunicator>>;
    zerospan::GroupedCommunicator communicator{
        Levels{std::move(levels.within), Quantized<ThreadCommunicator>{std::move(levels.across), device, both}}};
    const int rank = communicator.rank().value;
    Buffer buffer(4 * 2 * elements);
    std::ranges::copy(input_of(rank, elements, ElementType::bfloat16),
                      buffer.begin() + static_cast<std::ptrdiff_t>(as_size(rank) * 2 * elements));
    const GatherPart part{buffer.data(), 2 * elements, ElementType::bfloat16};
    communicator.all_gather(named("weights"), {&part, 1});
    return buffer;
  });
  Buffer expected;
  for (int rank = 0; rank < 4; ++rank) {
    std::ranges::copy(decoded(input_of(rank, elements, ElementType::bfloat16), ElementType::bfloat16, *both.gather),
                      std::back_inserter(expected));
  }
  for (const Buffer& buffer : gathered) CHECK(buffer == expected);
}

TEST_CASE("on streams it gives the bits that it gives on threads") {
  constexpr std::size_t elements = 5000;
  const auto exercise = [](auto& communicator, auto& place) {
    const int rank = communicator.rank().value;
    const auto ranks = as_size(communicator.size());
    std::vector<Buffer> results;
    for (int round = 0; round < 3; ++round) {
      Buffer whole(2 * ranks * elements);
      std::ranges::copy(input_of(rank + round, elements, ElementType::float16),
                        whole.begin() + static_cast<std::ptrdiff_t>(as_size(rank) * 2 * elements));
      auto weights = place.memory(whole);
      const GatherPart part{weights.data(), 2 * elements, ElementType::float16};
      communicator.all_gather({place.stream(), "weights"}, {&part, 1});
      auto gradient = place.memory(input_of(rank - round, ranks * elements, ElementType::bfloat16));
      auto sum = place.memory(Buffer(4 * elements));
      communicator.reduce_scatter({place.stream(), "gradient"},
                                  {ElementType::bfloat16, gradient.data(), ElementType::float32, sum.data(), elements});
      results.push_back(place.read(weights));
      results.push_back(place.read(sum));
    }
    return results;
  };
  constexpr QuantizationOptions tight{.gather = QuantizedType::int4, .reduce = QuantizedType::int8, .scratch = 8_KiB};
  for (const int ranks : {2, 3}) {
    const auto on_threads = run_quantized(ranks, tight, [&](auto communicator) {
      ::exercise::HostPlace place;
      return exercise(communicator, place);
    });
    const auto gpu = std::make_shared<FakeGpu>();
    const auto on_streams = zerospan::run_ranks(ranks, [&](ThreadCommunicator threads) {
      FakeDevice device{FakeRuntime{gpu}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
      StreamPlace place{.gpu_ = gpu};
      QuantizedCommunicator communicator{zerospan::StreamThreadCommunicator<FakeRuntime>{std::move(threads), device},
                                         device, tight};
      return exercise(communicator, place);
    });
    CHECK(on_streams == on_threads);
  }
}
