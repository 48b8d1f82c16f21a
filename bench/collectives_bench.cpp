/// ThreadCommunicator beside as many threads that move the same bytes by plain loops.

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/host_device.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::ElementType;

/// A buffer for each rank, as an engine has them: on huge pages, each at the beginning of a page, touched once; finite
/// numbers in every format. Their distance is no power of two, which would make them meet in the same banks of memory.
class Buffers {
 public:
  Buffers(std::size_t ranks, std::size_t size)
      : shard{size / ranks}, device_{{.device_budget = 1_MiB, .host_budget = zerospan::Bytes{ranks * (size + apart)}}} {
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      buffers_.push_back(device_.host_memory().allocate(zerospan::Bytes{size + apart}, "buffer"));
      std::fill_n(of(rank), size, std::byte{0x3c});
    }
  }

  std::byte* of(std::size_t rank) const { return buffers_[rank].data(); }
  std::byte* shard_of(std::size_t rank, std::size_t index) const { return of(rank) + index * shard; }

  std::size_t shard;

 private:
  static constexpr std::size_t apart = std::size_t{1'092} << 10;

  zerospan::HostDevice device_;
  std::vector<zerospan::Allocation> buffers_;
};

/// What threads have to agree on at least: that the inputs are there, and that nobody needs them any more.
using Meeting = std::barrier<>;

/// How many ranks, and how much each of them has: the gathered buffer, or its summand.
struct Size {
  std::size_t ranks;
  std::size_t mebibytes;

  std::size_t bytes() const { return mebibytes << 20; }
};

/// Calls `act(rank)` on as many threads as ranks, one of them the benchmark's, as often as the benchmark asks for.
template <class Act>
void measure(benchmark::State& state, std::size_t ranks, Act act) {
  const auto rounds = state.max_iterations;
  Meeting start{static_cast<std::ptrdiff_t>(ranks)};
  std::vector<std::jthread> peers;
  for (std::size_t rank = 1; rank < ranks; ++rank) {
    peers.emplace_back([&, rank] {
      start.arrive_and_wait();
      for (auto i = rounds; i > 0; --i) act(rank);
    });
  }
  start.arrive_and_wait();
  for (auto _ : state) act(0);
}

/// The same, of `bytes` a call, on either side of a comparison.
template <class Act>
void measure(benchmark::State& state, Size size, Act act) {
  measure(state, size.ranks, act);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.max_iterations) * static_cast<std::int64_t>(size.bytes()));
}

auto communicators_of(std::size_t ranks) { return zerospan::make_thread_communicators(static_cast<int>(ranks)); }

void all_gather(benchmark::State& state, Size size) {
  const Buffers buffers{size.ranks, size.bytes()};
  auto communicators = communicators_of(size.ranks);
  measure(state, size, [&](std::size_t rank) {
    const zerospan::GatherPart part{buffers.of(rank), buffers.shard};
    communicators[rank].all_gather({calling_thread, "weights"}, {&part, 1});
  });
}

void all_gather_raw(benchmark::State& state, Size size) {
  const Buffers buffers{size.ranks, size.bytes()};
  Meeting meeting{static_cast<std::ptrdiff_t>(size.ranks)};
  measure(state, size, [&](std::size_t rank) {
    meeting.arrive_and_wait();
    for (std::size_t i = 1; i < size.ranks; ++i) {
      const std::size_t peer = (rank + i) % size.ranks;
      std::memcpy(buffers.shard_of(rank, peer), buffers.shard_of(peer, peer), buffers.shard);
    }
    meeting.arrive_and_wait();
  });
}

void reduce_scatter(benchmark::State& state, Size size, ElementType type) {
  const Buffers buffers{size.ranks, size.bytes()};
  const Buffers sums{size.ranks, buffers.shard};
  auto communicators = communicators_of(size.ranks);
  measure(state, size, [&](std::size_t rank) {
    communicators[rank].reduce_scatter(
        {calling_thread, "gradients"},
        {type, buffers.of(rank), type, sums.of(rank), buffers.shard / zerospan::element_bytes(type)});
  });
}

/// Adds as many summands as there are ranks: a loop over elements, compiled for exactly that many.
template <class E, std::size_t... Ranks>
void add(std::index_sequence<Ranks...>, const Buffers& buffers, std::size_t index, std::byte* result) {
  const std::array<const E*, sizeof...(Ranks)> summands{reinterpret_cast<const E*>(buffers.shard_of(Ranks, index))...};
  E* const __restrict sum = reinterpret_cast<E*>(result);
  for (std::size_t i = 0; i < buffers.shard / sizeof(E); ++i) {
    sum[i] = E{(static_cast<float>(summands[Ranks][i]) + ...)};
  }
  benchmark::ClobberMemory();
}

template <class E>
void add(std::size_t ranks, const Buffers& buffers, std::size_t index, std::byte* result) {
  if (ranks == 2) return add<E>(std::make_index_sequence<2>{}, buffers, index, result);
  add<E>(std::make_index_sequence<4>{}, buffers, index, result);
}

void reduce_scatter_raw(benchmark::State& state, Size size, ElementType type) {
  const Buffers buffers{size.ranks, size.bytes()};
  const Buffers sums{size.ranks, buffers.shard};
  Meeting meeting{static_cast<std::ptrdiff_t>(size.ranks)};
  measure(state, size, [&](std::size_t rank) {
    meeting.arrive_and_wait();
    if (type == ElementType::float32) {
      add<float>(size.ranks, buffers, rank, sums.of(rank));
    } else {
      add<zerospan::bfloat16>(size.ranks, buffers, rank, sums.of(rank));
    }
    meeting.arrive_and_wait();
  });
}

/// How long a call that moves next to nothing takes: what ranks need to meet. It has no raw loop, but a goal in
/// microseconds.
template <class Act>
void rendezvous(benchmark::State& state, std::size_t ranks, Act act) {
  auto communicators = communicators_of(ranks);
  const auto begin = std::chrono::steady_clock::now();
  measure(state, ranks, [&](std::size_t rank) { act(communicators[rank]); });
  const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - begin;
  state.counters["microseconds"] = taken.count() / static_cast<double>(state.max_iterations);
}

using Call = void (*)(zerospan::ThreadCommunicator&);

void barrier(zerospan::ThreadCommunicator& communicator) { communicator.barrier({calling_thread, "all are here"}); }

void all_reduce_integer(zerospan::ThreadCommunicator& communicator) {
  std::int64_t integer = 1;
  communicator.all_reduce({calling_thread, "an integer"}, {&integer, 1});
  benchmark::DoNotOptimize(integer);
}

template <class Function, class... Arguments>
void add_row(const std::string& name, Function function, Arguments... arguments) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    function(state, arguments...);
  })->UseRealTime();
}

/// Two ranks have a core each; four share two cores where there are no more, on both sides of the comparison.
const bool are_added = [] {
  for (const std::size_t ranks : {std::size_t{2}, std::size_t{4}}) {
    const std::string many = ranks == 2 ? "/" : "/" + std::to_string(ranks) + "_ranks/";
    for (const std::size_t mebibytes : {1U, 16U, 128U}) {
      const Size size{ranks, mebibytes};
      const std::string mib = std::to_string(mebibytes) + "MiB";
      add_row("all_gather" + many + mib, all_gather, size);
      add_row("all_gather_raw" + many + mib, all_gather_raw, size);
      for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
        const std::string row = many + (type == ElementType::float32 ? "fp32_" : "bf16_") + mib;
        add_row("reduce_scatter" + row, reduce_scatter, size, type);
        add_row("reduce_scatter_raw" + row, reduce_scatter_raw, size, type);
      }
    }
    add_row("rendezvous" + many + "barrier", rendezvous<Call>, ranks, barrier);
    add_row("rendezvous" + many + "all_reduce_8_bytes", rendezvous<Call>, ranks,
            all_reduce_integer);
  }
  return true;
}();

}  // namespace
