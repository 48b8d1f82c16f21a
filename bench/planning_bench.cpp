/// What the host pays for prefetching: planning a pass when it ends, and the calls of a pass that is planned. Gathers
/// carry nothing here.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/pipeline/detail/interval_plan.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace {

using zerospan::Arena;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::detail::IntervalPlan;
using zerospan::detail::OverlapPipeline;
using zerospan::detail::Trace;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;
using zerospan::detail::WorkingMemory;

constexpr std::size_t layer_bytes = WorkingMemory::alignment;

enum class Route : std::uint8_t { backward, there_and_back };

std::vector<std::uint32_t> random_order(std::size_t layers) {
  std::vector<std::uint32_t> order(layers);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, std::mt19937{1});
  return order;
}

/// Calls `gather(layer)` for each layer on the way there, and `learn(layer)` for each on the way back.
template <class Gather, class Learn>
void travel(Route route, std::vector<std::uint32_t> order, Gather gather, Learn learn) {
  if (route == Route::there_and_back) std::ranges::for_each(order, gather);
  std::ranges::reverse(order);
  std::ranges::for_each(order, learn);
}

/// Memory for half of the layers: as many of them as fit stay.
void plan(benchmark::State& state, Route route) {
  const auto layers = static_cast<std::size_t>(state.range(0));
  Trace trace;
  const auto acquire = [&](UseKind kind, std::uint32_t layer) {
    return trace.acquire(UseKey{kind, layer}, layer_bytes, 0);
  };
  travel(
      route, random_order(layers), [&](std::uint32_t layer) { trace.release(acquire(UseKind::gathered, layer)); },
      [&](std::uint32_t layer) {
        const std::size_t parameters = acquire(UseKind::gathered, layer);
        trace.release(acquire(UseKind::gradient, layer));
        trace.release(parameters);
      });
  std::size_t steps = 0;
  for (auto _ : state) {
    const IntervalPlan planned{trace, layers * layer_bytes / 2, layers * layer_bytes / 8};
    steps = planned.steps();
  }
  const auto leases = static_cast<double>(trace.uses.size());
  state.counters["leases"] = leases;
  state.counters["steps_a_lease"] = static_cast<double>(steps) / leases;
  state.SetComplexityN(static_cast<benchmark::IterationCount>(trace.uses.size()));
}

/// A pass along a plan; its end is not measured.
void lease(benchmark::State& state, Route route) {
  const auto layers = static_cast<std::size_t>(state.range(0));
  const std::size_t bytes = zerospan::round_up(layers * layer_bytes / 2, Arena::alignment);
  const std::unique_ptr<std::byte[]> memory{new std::byte[bytes]};  // never touched
  Arena arena{"device memory", std::shared_ptr<std::byte>{std::shared_ptr<void>{}, memory.get()}, Bytes{bytes}};
  OverlapPipeline pipeline{WorkingMemory{arena.allocate_working(Bytes{bytes})}, Bytes{bytes / 4},
                           [](UseKey, std::byte*, std::vector<Completion>) { return std::vector<Completion>{}; }};
  const std::vector<std::uint32_t> order = random_order(layers);
  const auto acquire = [&](UseKind kind, std::uint32_t layer) {
    return pipeline.acquire(UseKey{kind, layer}, layer_bytes)->offset;
  };
  std::size_t leases = 0;
  const auto pass = [&] {
    leases = 0;
    pipeline.begin_pass(0);
    travel(
        route, order,
        [&](std::uint32_t layer) {
          pipeline.release(acquire(UseKind::gathered, layer), {});
          ++leases;
        },
        [&](std::uint32_t layer) {
          const std::size_t parameters = acquire(UseKind::gathered, layer);
          pipeline.release(acquire(UseKind::gradient, layer), {});
          pipeline.release(parameters, {});
          leases += 2;
        });
  };
  pass();
  pipeline.end_pass();
  for (auto _ : state) {
    pass();
    state.PauseTiming();
    pipeline.end_pass();
    state.ResumeTiming();
  }
  state.counters["leases"] = static_cast<double>(leases);
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(leases));
  state.SetComplexityN(static_cast<benchmark::IterationCount>(leases));
}

void sizes(benchmark::internal::Benchmark* bench) {
  for (const int layers : {500, 1000, 2000, 4000, 8000, 16'000, 32'000, 100'000}) bench->Arg(layers);
  bench->Complexity(benchmark::oNLogN)->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(plan, backward, Route::backward)->Apply(sizes);
BENCHMARK_CAPTURE(plan, there_and_back, Route::there_and_back)->Apply(sizes);
BENCHMARK_CAPTURE(lease, backward, Route::backward)->Apply(sizes);
BENCHMARK_CAPTURE(lease, there_and_back, Route::there_and_back)->Apply(sizes);

}  // namespace
