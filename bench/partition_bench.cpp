/// Passes over a model that rests behind slow links, one a rank: slices, which use every link, beside owners that
/// broadcast, whose links take turns (ZeRO-Infinity, arXiv 2104.07857, section 6.1). On demand slices win by the number
/// of ranks; prefetching as many layers as there are ranks lets owners catch up.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
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
#include <zerospan/partition/partitioner.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>

#include "vector.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::AnyPartitioner;

constexpr std::size_t layers = 8;
constexpr zerospan::Bytes layer = 1_MiB;
constexpr double link_bytes_per_second = 32.0 * (1 << 20);  // slow enough that two cores keep four links busy

/// One rank's model; only its parameters are behind the link.
class Model {
 public:
  Model(zerospan::ThreadCommunicator& communicator, const AnyPartitioner& strategy, std::size_t window)
      : engine_{zerospan::Stage3{},
                communicator,
                device_,
                zerospan::Placement{.parameters = link_, .gradients = host_, .optimizer = host_},
                zerospan::AdamW{},
                zerospan::EngineOptions{
                    .partition = strategy, .prefetch = zerospan::Bytes{window * layer.count}, .staging = 16_MiB}} {
    for (std::size_t l = 0; l < layers; ++l) {
      parameters_.emplace_back(engine_, std::to_string(l), zerospan::Shape{layer.count / sizeof(float)},
                               zerospan::init::ones(),
                               zerospan::ParameterOptions{.group = {}, .training = zerospan::Training::frozen});
    }
  }

  void pass() {
    engine_.begin(zerospan::Pass::evaluation);
    for (const auto& parameter : parameters_) {
      const auto full = parameter.gather(zerospan::calling_thread);
      auto* data = full->data;
      benchmark::DoNotOptimize(data);
    }
  }

 private:
  zerospan::HostDevice device_{{.device_budget = 64_MiB, .host_budget = 64_MiB}};
  zerospan::HostTier host_{device_};
  zerospan::ThrottledTier link_{host_, {.bytes_per_second = link_bytes_per_second}};
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::ThreadCommunicator, zerospan::HostDevice, zerospan::AdamW> engine_;
  std::vector<zerospan::PartitionedParameter<bench::Vector>> parameters_;
};

/// @param window Layers that may be fetched ahead; the first pass, which is not measured, learns their order.
void gather_pass(benchmark::State& state, const AnyPartitioner& strategy, std::size_t window) {
  const auto ranks = static_cast<int>(state.range(0));
  zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
    Model model{communicator, strategy, window};
    model.pass();
    communicator.barrier({zerospan::calling_thread, "measure"});
    if (communicator.rank() == zerospan::Rank{0}) {
      for (auto _ : state) model.pass();
    } else {
      for (auto i = state.max_iterations; i > 0; --i) model.pass();
    }
  });
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(layers * layer.count));
}

BENCHMARK_CAPTURE(gather_pass, on_demand, zerospan::Slices{}, 0)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(gather_pass, , zerospan::Owners{}, 0)
    ->Name("gather_pass_raw/on_demand")
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->UseRealTime();
BENCHMARK_CAPTURE(gather_pass, ahead, zerospan::Slices{}, 3)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(gather_pass, , zerospan::Owners{}, 3)
    ->Name("gather_pass_raw/ahead")
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->UseRealTime();

}  // namespace
