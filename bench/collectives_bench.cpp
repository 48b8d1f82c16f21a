/// ThreadCommunicator with two ranks beside two threads that move the same bytes by plain loops.

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>

namespace {

using zerospan::calling_thread;
using zerospan::ElementType;

constexpr std::size_t ranks = 2;

/// One buffer a rank, touched once; finite numbers in every format.
struct Buffers {
  explicit Buffers(std::size_t mebibytes)
      : bytes{mebibytes << 20}, shard{bytes / ranks}, of_rank(ranks, std::vector<std::byte>(bytes, std::byte{0x3c})) {}

  std::byte* shard_of(std::size_t rank, std::size_t index) { return of_rank[rank].data() + index * shard; }

  std::size_t bytes;
  std::size_t shard;
  std::vector<std::vector<std::byte>> of_rank;
};

/// What two threads have to agree on at least: that the inputs are there, and that nobody needs them any more.
using Meeting = std::barrier<>;

/// Calls `act(rank)` on two threads, one of them the benchmark's, as often as the benchmark asks for.
/// @param bytes Of one call, on either side of a comparison: the gathered buffer, or one rank's summand.
template <class Act>
void measure(benchmark::State& state, std::size_t bytes, Act act) {
  const auto rounds = state.max_iterations;
  Meeting start{ranks};
  const std::jthread peer{[&] {
    start.arrive_and_wait();
    for (auto i = rounds; i > 0; --i) act(1);
  }};
  start.arrive_and_wait();
  for (auto _ : state) act(0);
  state.SetBytesProcessed(static_cast<std::int64_t>(rounds) * static_cast<std::int64_t>(bytes));
}

void all_gather(benchmark::State& state, std::size_t mebibytes) {
  Buffers buffers{mebibytes};
  auto communicators = zerospan::make_thread_communicators(ranks);
  measure(state, buffers.bytes, [&](std::size_t rank) {
    const zerospan::GatherPart part{buffers.of_rank[rank].data(), buffers.shard};
    communicators[rank].all_gather({calling_thread, "weights"}, {&part, 1});
  });
}

void all_gather_raw(benchmark::State& state, std::size_t mebibytes) {
  Buffers buffers{mebibytes};
  Meeting meeting{ranks};
  measure(state, buffers.bytes, [&](std::size_t rank) {
    const std::size_t peer = 1 - rank;
    meeting.arrive_and_wait();
    std::memcpy(buffers.shard_of(rank, peer), buffers.shard_of(peer, peer), buffers.shard);
    meeting.arrive_and_wait();
  });
}

void reduce_scatter(benchmark::State& state, ElementType type, std::size_t mebibytes) {
  Buffers buffers{mebibytes};
  Buffers sums{mebibytes};
  auto communicators = zerospan::make_thread_communicators(ranks);
  measure(state, buffers.bytes, [&](std::size_t rank) {
    communicators[rank].reduce_scatter({calling_thread, "gradients"},
                                       {type, buffers.of_rank[rank].data(), type, sums.of_rank[rank].data(),
                                        buffers.shard / zerospan::element_bytes(type)});
  });
}

template <class E>
void add(const std::byte* left, const std::byte* right, std::byte* result, std::size_t bytes) {
  const E* const a = reinterpret_cast<const E*>(left);
  const E* const b = reinterpret_cast<const E*>(right);
  E* const __restrict sum = reinterpret_cast<E*>(result);
  for (std::size_t i = 0; i < bytes / sizeof(E); ++i) sum[i] = E{static_cast<float>(a[i]) + static_cast<float>(b[i])};
  benchmark::ClobberMemory();
}

void reduce_scatter_raw(benchmark::State& state, ElementType type, std::size_t mebibytes) {
  Buffers buffers{mebibytes};
  Buffers sums{mebibytes};
  Meeting meeting{ranks};
  measure(state, buffers.bytes, [&](std::size_t rank) {
    meeting.arrive_and_wait();
    const auto sum = type == ElementType::float32 ? add<float> : add<zerospan::bfloat16>;
    sum(buffers.shard_of(0, rank), buffers.shard_of(1, rank), sums.of_rank[rank].data(), buffers.shard);
    meeting.arrive_and_wait();
  });
}

BENCHMARK_CAPTURE(all_gather, 1MiB, 1)->UseRealTime();
BENCHMARK_CAPTURE(all_gather_raw, 1MiB, 1)->UseRealTime();
BENCHMARK_CAPTURE(all_gather, 16MiB, 16)->UseRealTime();
BENCHMARK_CAPTURE(all_gather_raw, 16MiB, 16)->UseRealTime();
BENCHMARK_CAPTURE(all_gather, 128MiB, 128)->UseRealTime();
BENCHMARK_CAPTURE(all_gather_raw, 128MiB, 128)->UseRealTime();

BENCHMARK_CAPTURE(reduce_scatter, fp32_1MiB, ElementType::float32, 1)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, fp32_1MiB, ElementType::float32, 1)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter, fp32_16MiB, ElementType::float32, 16)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, fp32_16MiB, ElementType::float32, 16)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter, fp32_128MiB, ElementType::float32, 128)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, fp32_128MiB, ElementType::float32, 128)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter, bf16_1MiB, ElementType::bfloat16, 1)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, bf16_1MiB, ElementType::bfloat16, 1)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter, bf16_16MiB, ElementType::bfloat16, 16)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, bf16_16MiB, ElementType::bfloat16, 16)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter, bf16_128MiB, ElementType::bfloat16, 128)->UseRealTime();
BENCHMARK_CAPTURE(reduce_scatter_raw, bf16_128MiB, ElementType::bfloat16, 128)->UseRealTime();

}  // namespace
