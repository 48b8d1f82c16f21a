/// What needs no clock, beside what no program could do better: a step of a trillion parameters in virtual time beside
/// its busiest lane, and the bytes that residency gathers beside the fewest that any choice would gather. A byte is
/// reported as a nanosecond.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/engine/options.hpp>

#include "../tests/support/every_residency.hpp"
#include "../tests/support/trillion_step.hpp"

namespace {

using zerospan::UpdateTime;
using zerospan_test::StepTimes;

/// Rows of one measurement: `ours` seconds beside `best`.
template <class Measure>
void add_rows(const std::string& topic, const std::string& name, Measure measure) {
  const auto add = [&](const std::string& full_name, bool is_best) {
    benchmark::RegisterBenchmark(full_name.c_str(),
                                 [measure, is_best](benchmark::State& state) {
                                   for (auto _ : state) {
                                     const auto [ours, best] = measure();
                                     state.SetIterationTime(is_best ? best : ours);
                                   }
                                   state.SetItemsProcessed(state.iterations());
                                 })
        ->UseManualTime()
        ->Iterations(1)
        ->Repetitions(3)  // of one alone no median is reported
        ->Unit(benchmark::kMillisecond);
  };
  add(topic + "/" + name, false);
  add(topic + "_raw/" + name, true);
}

struct Pair {
  double ours;
  double best;
};

/// Where gradients may be clipped, no update can begin before the backward pass has ended: at best a step takes that
/// pass, and then what the disk needs to write what updates change, while the next forward pass goes on.
Pair hidden_step(UpdateTime updates) {
  const StepTimes times = zerospan_test::step_of_a_trillion({.updates = updates});
  if (updates == UpdateTime::during_backward) return {times.step, times.busiest()};
  constexpr double written = 14e12;  // bytes: master weights and two moments of 4 each, the parameter of 2
  return {times.step, 2 * zerospan_test::forward_seconds + written / zerospan_test::disk_rate};
}

/// Of small cycles of passes at random, altogether. @param largest Sizes of buffers are from 1 to this.
Pair residency(std::size_t largest) {
  std::size_t ours = 0;
  std::size_t fewest = 0;
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    const zerospan_test::RandomCycle cycle{seed, largest};
    ours += zerospan_test::gathered_by_residency(cycle.trace, cycle.memory);
    fewest += zerospan_test::EveryResidency{cycle.trace, cycle.memory}.fewest();
  }
  return {1e-9 * static_cast<double>(ours), 1e-9 * static_cast<double>(fewest)};
}

const bool are_added = [] {
  add_rows("hidden_step", "during_backward", [] { return hidden_step(UpdateTime::during_backward); });
  add_rows("hidden_step", "after_step", [] { return hidden_step(UpdateTime::after_step); });
  add_rows("residency", "equal_sizes", [] { return residency(1); });
  add_rows("residency", "several_sizes", [] { return residency(64); });
  return true;
}();

}  // namespace
