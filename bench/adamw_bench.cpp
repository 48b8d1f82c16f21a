/// The fused AdamW beside raw loops that move as many bytes: its speed is a share of the memory's.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/core/element.hpp>
#include <zerospan/optimizer/adamw.hpp>

namespace {

using zerospan::ElementType;

constexpr std::size_t elements = std::size_t{32} << 20;  // arrays of 128 MiB each: far beyond any cache

using Floats = std::vector<float>;

/// What one thread works on, first touched by it. The gradients are nonzero numbers in both formats.
struct Arrays {
  explicit Arrays(std::size_t count)
      : n{count}, master(n, 1.0F), states(8 * n), gradient(4 * n, std::byte{0x3c}), parameter(4 * n) {}

  std::size_t n;
  Floats master;
  std::vector<std::byte> states;
  std::vector<std::byte> gradient;
  std::vector<std::byte> parameter;
};

std::size_t share(const benchmark::State& state) { return elements / static_cast<std::size_t>(state.threads()); }

/// Reports bytes moved a second, and elements updated a second.
void report(benchmark::State& state, std::size_t n, std::size_t bytes_per_element) {
  const auto updated = static_cast<double>(state.iterations()) * static_cast<double>(n);
  state.SetBytesProcessed(static_cast<std::int64_t>(updated) * static_cast<std::int64_t>(bytes_per_element));
  state.counters["elements"] = benchmark::Counter(updated, benchmark::Counter::kIsRate);
}

void fused_adamw(benchmark::State& state, ElementType type) {
  Arrays arrays{share(state)};
  const zerospan::AdamW adamw{};
  std::int64_t step = 0;
  for (auto _ : state) {
    adamw.update({.master = arrays.master.data(),
                  .states = arrays.states.data(),
                  .capacity = arrays.n,
                  .first = 0,
                  .elements = arrays.n,
                  .gradient = arrays.gradient.data(),
                  .gradient_type = type,
                  .parameter = arrays.parameter.data(),
                  .parameter_type = type,
                  .gradient_scale = 1.0F,
                  .step = ++step,
                  .group = {}});
    benchmark::ClobberMemory();
  }
  report(state, arrays.n, 24 + 2 * zerospan::element_bytes(type));
}

/// a[i] = b[i]: 8 bytes an element.
void copy(benchmark::State& state) {
  Floats a(share(state));
  const Floats b(share(state), 1.0F);
  for (auto _ : state) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i];
    benchmark::DoNotOptimize(a.data());
    benchmark::ClobberMemory();
  }
  report(state, a.size(), 8);
}

/// a[i] = b[i] + k c[i]: 12 bytes an element.
void triad(benchmark::State& state) {
  Floats a(share(state));
  const Floats b(share(state), 1.0F);
  const Floats c(share(state), 2.0F);
  for (auto _ : state) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i] + 3.0F * c[i];
    benchmark::DoNotOptimize(a.data());
    benchmark::ClobberMemory();
  }
  report(state, a.size(), 12);
}

/// What an update does to memory and nothing else: three arrays changed in place, one read, one written. The bound.
/// @tparam E As wide as an element of gradients and parameters.
template <class E>
void in_place(benchmark::State& state) {
  Arrays arrays{share(state)};
  float* const __restrict m = reinterpret_cast<float*>(arrays.states.data());
  float* const __restrict v = m + arrays.n;
  float* const __restrict p = arrays.master.data();
  const E* const __restrict g = reinterpret_cast<const E*>(arrays.gradient.data());
  E* const __restrict out = reinterpret_cast<E*>(arrays.parameter.data());
  for (auto _ : state) {
    for (std::size_t i = 0; i < arrays.n; ++i) {
      m[i] += 0.5F;
      v[i] += 0.5F;
      p[i] += 0.5F;
      out[i] = g[i];
    }
    benchmark::ClobberMemory();
  }
  report(state, arrays.n, 24 + 2 * sizeof(E));
}

BENCHMARK_CAPTURE(fused_adamw, bf16, ElementType::bfloat16)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK_TEMPLATE(in_place, std::uint16_t)->Name("fused_adamw_raw/bf16")->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK_CAPTURE(fused_adamw, fp32, ElementType::float32)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK_TEMPLATE(in_place, std::uint32_t)->Name("fused_adamw_raw/fp32")->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(copy)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(triad)->Threads(1)->Threads(2)->UseRealTime();

}  // namespace
