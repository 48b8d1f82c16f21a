/// Training steps beside the busiest lane alone, which no schedule can beat: of a model whose states rest behind slow
/// links, bound by compute, reads, writes or gathers in turn. The same programs run on real threads and in virtual
/// time. Compute and collectives are waits that take no core, transfers are ended by a timer: what is measured is the
/// schedule, on any machine.

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>

#include "throttled_communicator.hpp"
#include "vector.hpp"

namespace {

using namespace zerospan::literals;
namespace sim = zerospan::sim;
using Clock = std::chrono::steady_clock;

constexpr int ranks = 2;
constexpr std::size_t layers = 24;
constexpr std::size_t elements = std::size_t{1} << 16;
constexpr double shard = elements * sizeof(float) / ranks;  // bytes of a layer on a rank

/// The speeds of a rank, in seconds.
struct Load {
  double forward;  ///< Compute of a layer; backward takes twice as long.
  double gather;   ///< Of a layer, over the network.
  double read;     ///< Of a layer's shard from the tier.
  double write;    ///< Of the same to the tier.
};

/// Waits of ten and more milliseconds on the lane that the setting is named after: where threads wake up late by a few
/// tenths of one, as on machines that have other things to do, that is not much.
constexpr Load compute_bound{.forward = 0.020, .gather = 0.003, .read = 0.003, .write = 0.003};
constexpr Load read_bound{.forward = 0.003, .gather = 0.003, .read = 0.010, .write = 0.003};
constexpr Load write_bound{.forward = 0.003, .gather = 0.003, .read = 0.003, .write = 0.010};
constexpr Load gather_bound{.forward = 0.003, .gather = 0.020, .read = 0.003, .write = 0.003};

/// The first pass records the path, the second is the first that follows it. Then it is measured.
constexpr std::size_t steps = 6;
constexpr std::size_t first_measured = 2;
constexpr double measured_steps = steps - 1 - first_measured;

constexpr zerospan::Bytes device_budget = 4_MiB;
constexpr zerospan::Bytes host_budget = 128_MiB;

const zerospan::EngineOptions known_options{
    .persistence_threshold = 0_KiB, .prefetch = 2_MiB, .staging = 24_MiB, .sub_group_elements = elements};

/// A training on any device.
/// @param compute Takes as many times `Load::forward`. @param step_begins Is called before each step.
template <class Communicator, class Device, class Tier, class Compute, class Begins>
void train(Communicator& communicator, Device& device, Tier& disk, const zerospan::EngineOptions& options,
           Compute compute, Begins step_begins) {
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              communicator,
                              device,
                              zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
                              zerospan::AdamW{},
                              options};
  std::vector<zerospan::PartitionedParameter<bench::Vector>> model;
  for (std::size_t l = 0; l < layers; ++l) {
    model.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{elements}, zerospan::init::zeros());
  }
  engine.begin(zerospan::Pass::training);
  for (std::size_t step = 0; step < steps; ++step) {
    step_begins();
    for (const auto& layer : model) {
      const auto full = layer.gather(zerospan::calling_thread);
      compute("forward", 1);
    }
    for (auto layer = model.rbegin(); layer != model.rend(); ++layer) {
      const auto full = layer->gather(zerospan::calling_thread);
      auto gradient = layer->gradient(zerospan::calling_thread);
      compute("backward", 2);
      gradient.commit();
    }
    engine.step();
  }
}

/// On threads.
struct RealStep {
  double seconds;
  double cores;  ///< That all threads of all ranks were busy on, beside their waits.
};

double processor_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

RealStep real_step(const Load& load) {
  std::vector<Clock::time_point> begins;
  std::vector<double> busy;
  zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator threads) {
    const bool is_measured = threads.rank() == zerospan::Rank{0};
    zerospan::HostDevice device{{.device_budget = device_budget, .host_budget = host_budget}};
    bench::ThrottledCommunicator communicator{std::move(threads), {.bytes_per_second = shard / load.gather}};
    zerospan::HostTier host{device};
    zerospan::ThrottledTier disk{
        host, {.bytes_per_second = shard / load.read, .write_bytes_per_second = shard / load.write}};
    train(
        communicator, device, disk, known_options,
        [&](std::string_view, double times) {
          std::this_thread::sleep_for(std::chrono::duration<double>{times * load.forward});
        },
        [&] {
          if (!is_measured) return;
          begins.push_back(Clock::now());
          busy.push_back(processor_seconds());
        });
  });
  const double seconds = std::chrono::duration<double>{begins.back() - begins[first_measured]}.count();
  return {seconds / measured_steps, (busy.back() - busy[first_measured]) / seconds};
}

struct StepTimes {
  double step;
  double busiest;  ///< Of the lane, or the host, that has most to do in a step.
};

/// In virtual seconds.
StepTimes virtual_step(const Load& load, const zerospan::EngineOptions& options = known_options) {
  constexpr double at_once = 1e15;
  sim::Cluster cluster{sim::one_node(ranks, {{at_once}, {shard / load.gather}, at_once, 1 / load.forward})};
  for (int r = 0; r < ranks; ++r) {
    sim::HostDevice device{cluster, zerospan::Rank{r}, {.device_budget = device_budget, .host_budget = host_budget}};
    sim::Communicator communicator{cluster, zerospan::Rank{r}};
    sim::Tier disk{device, {.capacity = 1_GiB, .own = sim::Disk{shard / load.read, shard / load.write}}};
    train(
        communicator, device, disk, options,
        [&](std::string_view name, double times) { device.compute(name, times); },
        [&] { device.compute("step begins", 0); });
  }
  const auto events = cluster.resolve();
  std::vector<double> begins;
  for (const sim::Event& event : events) {
    if (event.rank == zerospan::Rank{0} && event.name == "step begins") begins.push_back(event.begin);
  }
  const double from = begins[first_measured];
  const double to = begins.back();
  std::map<std::string_view, double> busy;
  for (const sim::Event& event : events) {
    if (event.rank != zerospan::Rank{0} || event.kind == zerospan::OperationKind::wait) continue;
    busy[event.track] += std::max(0.0, std::min(event.end, to) - std::max(event.begin, from)) / measured_steps;
  }
  const auto most = std::ranges::max_element(busy, {}, [](const auto& track) { return track.second; });
  return {(to - from) / measured_steps, most->second};
}

/// Where nothing is said of look-ahead, staging memory and sub-groups.
const zerospan::EngineOptions default_options{.persistence_threshold = 0_KiB};

/// The shortest step of a sweep over them, in virtual seconds.
double best_of_sweep(const Load& load) {
  double best = virtual_step(load, default_options).step;
  for (const zerospan::Bytes prefetch : {256_KiB, 1_MiB, 3_MiB}) {
    for (const zerospan::Bytes staging : {8_MiB, 32_MiB, 128_MiB}) {
      for (const std::size_t sub_group : {elements / 2, elements * 2, elements * 8}) {
        zerospan::EngineOptions options = default_options;
        options.prefetch = prefetch;
        options.staging = staging;
        options.sub_group_elements = sub_group;
        best = std::min(best, virtual_step(load, options).step);
      }
    }
  }
  return best;
}

/// What one setting takes on threads, measured when it is asked for a measurement that there is not yet: two rows tell
/// of the same steps.
class RealSteps {
 public:
  explicit RealSteps(const Load& load) : load_{load} {}

  /// Measurement number `which`.
  const RealStep& operator[](std::size_t which) {
    while (measured_.size() <= which) measured_.push_back(real_step(load_));
    return measured_[which];
  }

 private:
  Load load_;
  std::vector<RealStep> measured_;
};

/// Reports steps a second.
/// @param measure Is told the benchmark's state; returns the seconds of one.
template <class Measure>
void add_row(const std::string& name, Measure measure) {
  benchmark::RegisterBenchmark(name.c_str(), [measure](benchmark::State& state) mutable {
    for (auto _ : state) state.SetIterationTime(measure(state));
    state.SetItemsProcessed(state.iterations());
  })->UseManualTime()->Iterations(1)->Repetitions(3)->Unit(benchmark::kMillisecond);
}

void add_rows(const std::string& name, const Load& load) {
  const auto at_best = [load](benchmark::State&) { return virtual_step(load).busiest; };
  const auto in_virtual_time = [load](benchmark::State&) { return virtual_step(load).step; };
  auto real = [measured = std::make_shared<RealSteps>(load), next = std::size_t{}](benchmark::State& state) mutable {
    const auto [seconds, cores] = (*measured)[next++];
    state.counters["cores"] = cores;
    return seconds;
  };
  const auto real_and_not_faster = [=](benchmark::State& state) mutable {
    const double seconds = real(state);
    if (seconds < 0.97 * in_virtual_time(state)) state.SkipWithError("virtual time is slower than threads are");
    return seconds;
  };
  add_row("overlap/" + name, real);
  add_row("overlap_raw/" + name, at_best);
  add_row("virtual_overlap/" + name, in_virtual_time);
  add_row("virtual_overlap_raw/" + name, at_best);
  add_row("virtual_defaults/" + name,
          [load](benchmark::State&) { return virtual_step(load, default_options).step; });
  add_row("virtual_defaults_raw/" + name, [load](benchmark::State&) { return best_of_sweep(load); });
  add_row("real_beside_virtual/" + name, real_and_not_faster);
  add_row("real_beside_virtual_raw/" + name, in_virtual_time);
}

const bool are_added = [] {
  // Where it is allowed, all threads run as soon as they are woken up: the turns of other programs are no part of the
  // schedule.
  const sched_param first{.sched_priority = 1};
  ::pthread_setschedparam(::pthread_self(), SCHED_FIFO, &first);
  add_rows("compute_bound", compute_bound);
  add_rows("read_bound", read_bound);
  add_rows("write_bound", write_bound);
  add_rows("gather_bound", gather_bound);
  return true;
}();

}  // namespace
