/// Fused updates beside raw loops that move the same bytes: their speed is a share of the memory's. Arrays lie where an
/// engine has them: on huge pages, each at the beginning of a page.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <benchmark/benchmark.h>

#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/sgd.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::ElementType;

/// fp32 arrays of 122 MiB each: far beyond any cache. Their distance is no power of two: arrays that are 64 or 128 MiB
/// apart meet in the same banks of the memory, which makes raw loops up to ten times slower, and updates less so.
constexpr std::size_t elements = std::size_t{31'128} << 10;

std::size_t share(const benchmark::State& state) { return elements / static_cast<std::size_t>(state.threads()); }

/// What one thread works on, first touched by it.
struct Arrays {
  /// @param bytes Of an element of gradients, and of parameters, which are the master weights if it is 4.
  Arrays(std::size_t count, std::size_t state_bytes, std::size_t bytes)
      : n{count},
        memory{device.host_memory().allocate(
            zerospan::Bytes{(4 + bytes + bytes_of_parameter(bytes)) * n + state_bytes}, "arrays")},
        master{reinterpret_cast<float*>(memory.data())},
        states{memory.data() + 4 * n},
        gradient{states + state_bytes},
        parameter{bytes == 4 ? memory.data() : gradient + bytes * n} {
    std::fill_n(memory.data(), memory.bytes(), std::byte{0x3c});  // a small number in any format
  }

  static constexpr std::size_t bytes_of_parameter(std::size_t bytes) { return bytes % 4; }

  /// The fp32 array number `which` of those that are updated in place.
  float* array(std::size_t which) { return master + which * n; }

  std::size_t n;
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = zerospan::Bytes{elements * 20}}};
  zerospan::Allocation memory;
  float* master;
  std::byte* states;
  std::byte* gradient;
  std::byte* parameter;
};

/// Reports bytes moved a second, and elements updated a second. @param bytes In an iteration.
void report(benchmark::State& state, std::size_t n, std::size_t bytes) {
  const auto updated = static_cast<double>(state.iterations()) * static_cast<double>(n);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(bytes));
  state.counters["elements"] = benchmark::Counter(updated, benchmark::Counter::kIsRate);
}

template <zerospan::Optimizer O>
void fused(benchmark::State& state, const O& optimizer, ElementType type) {
  const std::size_t state_bytes = optimizer.state_bytes(share(state));
  Arrays arrays{share(state), state_bytes, zerospan::element_bytes(type)};
  std::int64_t step = 0;
  for (auto _ : state) {
    optimizer.update({.master = arrays.master,
                      .states = arrays.states,
                      .capacity = arrays.n,
                      .first = 0,
                      .elements = arrays.n,
                      .gradient = arrays.gradient,
                      .gradient_type = type,
                      .parameter = arrays.parameter,
                      .parameter_type = type,
                      .gradient_scale = 1.0F,
                      .step = ++step,
                      .group = {}});
    benchmark::ClobberMemory();
  }
  const std::size_t bytes = zerospan::element_bytes(type);
  report(state, arrays.n, 2 * state_bytes + (8 + bytes + Arrays::bytes_of_parameter(bytes)) * arrays.n);
}

/// What an update does to memory and nothing else: the master weights and `States` arrays of states are changed in
/// place, gradients are read, and parameters of 16 bits written. The bound.
/// @tparam E An element of gradients. @tparam S One of an array of states.
template <class E, std::size_t States, class S>
void in_place(benchmark::State& state) {
  Arrays arrays{share(state), States * sizeof(S) * share(state), sizeof(E)};
  float* const __restrict p = arrays.master;
  S* const __restrict m = reinterpret_cast<S*>(arrays.states);
  S* const __restrict v = m + arrays.n;
  const E* const __restrict g = reinterpret_cast<const E*>(arrays.gradient);
  [[maybe_unused]] E* const __restrict out = reinterpret_cast<E*>(arrays.parameter);
  for (auto _ : state) {
    for (std::size_t first = 0; first < arrays.n; first += 64) {  // so many at once: arrays of bytes vectorize, too
      if constexpr (States > 0) {
        for (std::size_t i = first; i < first + 64; ++i) m[i] = static_cast<S>(m[i] + S{1});
      }
      if constexpr (States > 1) {
        for (std::size_t i = first; i < first + 64; ++i) v[i] = static_cast<S>(v[i] + S{1});
      }
      for (std::size_t i = first; i < first + 64; ++i) {
        if constexpr (sizeof(E) == sizeof(float)) {
          p[i] += g[i];
        } else {
          p[i] += 0.5F;
          out[i] = g[i];
        }
      }
    }
    benchmark::ClobberMemory();
  }
  const std::size_t bytes = 8 + 2 * States * sizeof(S) + sizeof(E) + Arrays::bytes_of_parameter(sizeof(E));
  report(state, arrays.n, bytes * arrays.n);
}

/// x[i] = k x[i]: STREAM's loop "scale", in place. 8 bytes an element.
void scale(benchmark::State& state) {
  Arrays arrays{share(state), 0, 0};
  for (auto _ : state) {
    for (std::size_t i = 0; i < arrays.n; ++i) arrays.master[i] *= 0.999F;
    benchmark::ClobberMemory();
  }
  report(state, arrays.n, 8 * arrays.n);
}

/// a[i] = b[i] + k c[i]: 12 bytes an element.
void triad(benchmark::State& state) {
  Arrays arrays{share(state), 8 * share(state), 0};
  float* const __restrict a = arrays.array(0);
  const float* const __restrict b = arrays.array(1);
  const float* const __restrict c = arrays.array(2);
  for (auto _ : state) {
    for (std::size_t i = 0; i < arrays.n; ++i) a[i] = b[i] + 3.0F * c[i];
    benchmark::ClobberMemory();
  }
  report(state, arrays.n, 12 * arrays.n);
}

/// The rows of an optimizer with so many arrays of states of a type, and of the raw loops beside them.
template <std::size_t States, class S = float, zerospan::Optimizer O>
void add_rows(const std::string& name, const O& optimizer) {
  const auto add = [](const std::string& row, auto function) {
    // Often and briefly: where other programs use the same memory, that is what makes medians of a few tell the truth.
    benchmark::RegisterBenchmark(row.c_str(), function)
        ->Threads(1)
        ->Threads(2)
        ->MinTime(0.1)
        ->Repetitions(21)
        ->UseRealTime();
  };
  add(name + "/bf16", [=](benchmark::State& state) { fused(state, optimizer, ElementType::bfloat16); });
  add(name + "_raw/bf16", in_place<std::uint16_t, States, S>);
  add(name + "/fp32", [=](benchmark::State& state) { fused(state, optimizer, ElementType::float32); });
  add(name + "_raw/fp32", in_place<float, States, S>);
}

const bool are_added = [] {
  add_rows<2>("fused_adamw", zerospan::AdamW{});
  add_rows<2, std::uint8_t>("fused_adamw8bit", zerospan::AdamW8bit{});
  add_rows<1>("fused_lion", zerospan::Lion{});
  add_rows<1>("fused_momentum", zerospan::Sgd{.momentum = 0.9F});
  add_rows<0>("fused_sgd", zerospan::Sgd{});
  return true;
}();

BENCHMARK(scale)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(triad)->Threads(1)->Threads(2)->UseRealTime();

}  // namespace
