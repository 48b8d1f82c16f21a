/// What a lease costs the host where no bytes move: gathers of what is in memory already, with their releases, one
/// after the other. The parameters stay whole, or are partitioned and were kept since their last use. Whether the
/// others of a model cost anything is told by 100,000, of which as many are gathered in turn as of 100. Times are the
/// processor's: the host's thread waits for nothing.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tier/host_tier.hpp>

#include "vector.hpp"

namespace {

using namespace zerospan::literals;

enum class Rests : std::uint8_t { whole, partitioned };

/// So many parameters are gathered in turn, spread over all.
constexpr std::size_t in_turn = 100;

/// A rank alone, with a model of small parameters.
template <Rests rests, std::size_t count>
class Model {
 public:
  /// It takes its time, and is made once.
  static Model& get() {
    static Model made;
    return made;
  }

  /// Gathers each of the parameters in turn, and releases it.
  void gather_in_turn() const {
    for (std::size_t i = 0; i < in_turn; ++i) {
      const auto full = parameters_[i * (count / in_turn)].gather(zerospan::calling_thread);
      auto* data = full->data;
      benchmark::DoNotOptimize(data);
    }
  }

  void begin_pass() { engine_.begin(zerospan::Pass::evaluation); }

  zerospan::PipelineCounters counters() const { return engine_.statistics().prefetch; }

 private:
  Model() {
    for (std::size_t p = 0; p < count; ++p) {
      parameters_.emplace_back(engine_, std::to_string(p), zerospan::Shape{16}, zerospan::init::ones(),
                               zerospan::ParameterOptions{.group = {}, .training = zerospan::Training::frozen});
    }
  }

  zerospan::SelfCommunicator self_;
  zerospan::HostDevice device_{{.device_budget = 256_MiB, .host_budget = 512_MiB}};
  zerospan::HostTier host_{device_};
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::AdamW> engine_{
      zerospan::Stage3{},
      self_,
      device_,
      zerospan::Placement{host_, host_, host_},
      zerospan::AdamW{},
      zerospan::EngineOptions{.persistence_threshold = rests == Rests::whole ? 32_KiB : 0_KiB, .prefetch = 16_MiB}};
  std::vector<zerospan::PartitionedParameter<bench::Vector>> parameters_;
};

enum class Told : std::uint8_t { microseconds, rate };

/// @param told Microseconds are compared with a goal alone, rates with those of another benchmark.
void tell(benchmark::State& state, std::size_t gathers_an_iteration, Told told) {
  const auto gathers = static_cast<double>(state.iterations()) * static_cast<double>(gathers_an_iteration);
  if (told == Told::rate) {
    state.SetItemsProcessed(static_cast<std::int64_t>(gathers));
  } else {
    using benchmark::Counter;
    state.counters["microseconds"] = Counter{gathers * 1e-6, Counter::kIsRate | Counter::kInvert};
  }
}

/// Parameters that stay whole, below the persistence threshold.
template <std::size_t count>
void resident(benchmark::State& state, Told told) {
  const auto& model = Model<Rests::whole, count>::get();
  model.gather_in_turn();  // declaration ends
  for (auto _ : state) model.gather_in_turn();
  tell(state, in_turn, told);
}

/// Partitioned parameters that stay in memory from use to use. Each pass brings them anew: its first round is not
/// measured, nor is its end.
template <std::size_t count>
void kept(benchmark::State& state, Told told) {
  constexpr std::size_t rounds = 20;
  auto& model = Model<Rests::partitioned, count>::get();
  const auto begin_pass = [&] {
    model.begin_pass();
    model.gather_in_turn();
  };
  const auto gather = [&] {
    for (std::size_t i = 0; i < rounds; ++i) model.gather_in_turn();
  };
  begin_pass();
  gather();  // that the order is known
  const std::uint64_t before = model.counters().kept;
  for (auto _ : state) {
    state.PauseTiming();
    begin_pass();
    state.ResumeTiming();
    gather();
  }
  const auto gathers = static_cast<std::uint64_t>(state.iterations()) * rounds * in_turn;
  if (model.counters().kept - before != gathers) state.SkipWithError("not all parameters were kept");
  tell(state, rounds * in_turn, told);
}

void add_row(const std::string& name, void (*function)(benchmark::State&, Told), Told told) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { function(state, told); });
}

const bool are_added = [] {
  constexpr std::size_t few = 100;
  constexpr std::size_t many = 100'000;
  add_row("host_overhead/gather_release", resident<few>, Told::microseconds);
  add_row("host_overhead/kept_gather_release", kept<few>, Told::microseconds);
  add_row("host_overhead/100000_parameters", resident<many>, Told::rate);
  add_row("host_overhead_raw/100000_parameters", resident<few>, Told::rate);
  add_row("host_overhead/100000_kept_parameters", kept<many>, Told::rate);
  add_row("host_overhead_raw/100000_kept_parameters", kept<few>, Told::rate);
  return true;
}();

}  // namespace
