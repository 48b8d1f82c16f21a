#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "support/ghost.hpp"

namespace {

namespace sim = zerospan::sim;
using zerospan::OperationKind;
using namespace zerospan::literals;

using Ghost = zerospan_test::Ghost<float>;

// Layers of 4096 elements on two ranks: a shard is 8192 bytes. Everything is priced so that reading, copying or
// gathering a parameter takes 1 s, reducing a gradient 1 s (a rank sends the other one its half), accumulating a shard
// 0.25 s, and the compute of one parameter 2 s.
constexpr std::size_t elements = 4096;
constexpr sim::Rates rates{{8192}, {8192}, 32768, 1.0};

struct Program {
  zerospan::Bytes prefetch;
  int steps;
  bool swapped_backward = false;
  std::string_view layers = "ab";        ///< Their names.
  std::size_t sub_group = 2 * elements;  ///< Elements; that of a layer is half of one's.
  bool waits = true;                     ///< For the updates, at the end of each step.
  int evaluations = 0;                   ///< Forward passes, after the steps.
  bool is_reversed = false;              ///< The last layer comes first.
};

void run_rank(sim::Cluster& cluster, zerospan::Rank rank, const Program& program) {
  sim::HostDevice device{cluster, rank, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
  sim::Communicator communicator{cluster, rank};
  sim::Tier disk{device, {.capacity = 1_GiB, .own = sim::Disk{8192, 8192}}};
  zerospan::HostTier host{device};
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              communicator,
                              device,
                              zerospan::Placement{.parameters = disk, .gradients = host, .optimizer = host},
                              zerospan::AdamW{},
                              zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0},
                                                      .prefetch = program.prefetch,
                                                      .sub_group_elements = program.sub_group}};
  using Parameter = zerospan::PartitionedParameter<Ghost>;
  std::vector<Parameter> model;
  for (const char name : program.layers) {
    model.emplace_back(engine, std::string{name}, zerospan::Shape{elements}, zerospan::init::zeros());
  }

  const auto forward = [&](const Parameter& parameter) {
    const auto full = parameter.gather(zerospan::calling_thread);
    device.compute("forward", 2);
  };
  const auto backward = [&](const Parameter& parameter) {
    const auto full = parameter.gather(zerospan::calling_thread);
    auto gradient = parameter.gradient(zerospan::calling_thread);
    device.compute("backward", 2);
    gradient.commit();
  };
  engine.begin(zerospan::Pass::training);  // ends declaration: parameters are born here
  for (int step = 0; step < program.steps; ++step) {
    device.compute("step begins", 0);
    if (program.is_reversed) {
      std::for_each(model.rbegin(), model.rend(), forward);
    } else {
      std::ranges::for_each(model, forward);
    }
    if (program.swapped_backward && rank.value == 1) {
      std::ranges::for_each(model, backward);
    } else {
      std::for_each(model.rbegin(), model.rend(), backward);
    }
    device.compute("backward ends", 0);
    engine.step();
    device.compute("step ends", 0);
    if (program.waits) engine.synchronize();
  }
  for (int pass = 0; pass < program.evaluations; ++pass) {
    engine.begin(zerospan::Pass::evaluation);
    device.compute("evaluation begins", 0);
    std::ranges::for_each(model, forward);
  }
  device.compute("end", 0);
}

sim::Schedule run(const Program& program) {
  sim::Cluster cluster{sim::one_node(2, rates)};
  for (int r = 0; r < cluster.size(); ++r) run_rank(cluster, zerospan::Rank{r}, program);
  return cluster.resolve();
}

std::vector<double> begins(const sim::Schedule& events, int rank, std::string_view name) {
  std::vector<double> times;
  for (const sim::Event& e : events) {
    if (e.rank.value == rank && e.name == name && e.kind == OperationKind::compute) times.push_back(e.begin);
  }
  return times;
}

std::vector<std::string> collectives(const sim::Schedule& events, int rank) {
  std::vector<std::string> order;
  for (const sim::Event& e : events) {
    if (e.rank.value == rank &&
        e.track == zerospan::lane_names[static_cast<std::size_t>(zerospan::Lane::communicate)]) {
      order.push_back(std::string{to_string(e.kind)} + " " + std::string{e.name});
    }
  }
  return order;
}

TEST_CASE("without prefetch every gather is exposed: the makespan is exact") {
  const auto events = run({.prefetch = 0_MiB, .steps = 3});
  const auto begin = begins(events, 0, "step begins");
  const auto end = begins(events, 0, "backward ends");
  REQUIRE(begin.size() == 3);
  // Four uses, each read 1 + gather 1 + compute 2. The reduction of b's gradient (1 s) hides behind the read of a.
  for (std::size_t step = 0; step < 3; ++step) CHECK(end[step] - begin[step] == 16.0);
}

TEST_CASE("with prefetch transfers hide behind compute: the makespan is exact") {
  const auto events = run({.prefetch = 1_MiB, .steps = 4});
  const auto begin = begins(events, 0, "step begins");
  const auto end = begins(events, 0, "backward ends");
  CHECK(end[0] - begin[0] == 16.0);  // the first pass records
  // Then nothing is exposed, 4 * 2: while the step is written, the first parameters are gathered from staging memory.
  for (std::size_t step = 1; step < 4; ++step) CHECK(end[step] - begin[step] == 8.0);

  // The step: a's reduction (1 s) is exposed, then its accumulation (0.25 s), the norm's 552 bytes and 32 of what ranks
  // were told, and the update of one sub-group of 4096 elements of 12 bytes; afterwards the new parameters are written.
  const double norm = (552.0 + 32.0) / 8192.0;
  const double update = 4096.0 * 12 / 32768.0;
  const double write = 4096.0 * 4 / 8192.0;
  CHECK(begin[3] - end[2] == 1.0 + 0.25 + norm + update + write);
}

TEST_CASE("updates hide behind the next forward pass, a gather waits for its own alone: the makespan is exact") {
  // A layer's shard has 2048 elements: its update takes 0.75 s, and its new values are written in 1 s.
  for (const std::size_t layers : {4U, 8U, 12U}) {
    const std::string names = std::string{"abcdefghijkl"}.substr(0, layers);
    Program program{.prefetch = 1_MiB, .steps = 4, .layers = names, .sub_group = elements / 2};
    const auto forward = [&] {
      const auto events = run(program);
      return begins(events, 0, "forward")[3 * layers - 1] + 2.0 - begins(events, 0, "step ends")[1];
    };
    const auto compute = 2.0 * static_cast<double>(layers);
    program.waits = true;
    CHECK(forward() == 0.75 + static_cast<double>(layers) * 1.0 + compute);
    program.waits = false;
    CHECK(forward() == 0.75 + 2.0 + compute);  // the new values are copied from staging memory, and gathered
  }
}

TEST_CASE("sub-groups are updated in the order in which the pass before has gathered them") {
  for (const bool is_reversed : {false, true}) {
    CAPTURE(is_reversed);
    const auto events =
        run({.prefetch = 1_MiB, .steps = 3, .layers = "abcd", .sub_group = elements / 2, .is_reversed = is_reversed});
    std::vector<std::string> updates;
    for (const sim::Event& e : events) {
      if (e.rank.value == 0 && e.kind == OperationKind::update) updates.emplace_back(1, e.name.back());
    }
    const std::vector<std::string> forward{"0", "1", "2", "3"};
    const std::vector<std::string> backward{"3", "2", "1", "0"};
    REQUIRE(updates.size() == 12);
    for (std::size_t step = 0; step < 3; ++step) {
      const auto first = updates.begin() + static_cast<std::ptrdiff_t>(4 * step);
      CHECK((std::vector(first, first + 4) == (is_reversed ? backward : forward)));
    }
  }
}

TEST_CASE("in steady state one parameter is read while another is gathered; no lane copies") {
  const auto events = run({.prefetch = 1_MiB, .steps = 1, .layers = "abcd", .evaluations = 3});
  const double begin = begins(events, 1, "evaluation begins").back();
  const auto at = [&](std::string_view track, double time) -> std::string {
    for (const sim::Event& e : events) {
      const bool is_then = e.begin <= begin + time && begin + time < e.end;
      if (e.rank.value == 1 && e.track == track && is_then) return std::string{e.name};
    }
    return "nothing";
  };
  // a is asked for, and b, c, d are posted ahead.
  CHECK(at(zerospan::lane_names[0], 1.5) == "b");
  CHECK(at(zerospan::lane_names[1], 1.5) == "nothing");
  CHECK(at(zerospan::lane_names[2], 1.5) == "a (evaluation)");
  CHECK(at(zerospan::lane_names[0], 2.5) == "c");
  CHECK(at(zerospan::lane_names[1], 2.5) == "nothing");
  CHECK(at(zerospan::lane_names[2], 2.5) == "b (evaluation)");
}

TEST_CASE("the order of collectives is that of the program, on every rank") {
  const auto events = run({.prefetch = 1_MiB, .steps = 2});
  const auto order = collectives(events, 0);
  CHECK(order == collectives(events, 1));
  const std::vector<std::string> first_pass{"all-reduce what ranks were told",
                                            "all-reduce the sub-group size",
                                            "all-reduce the working memory",
                                            "barrier a further communicator",
                                            "all-gather a",
                                            "all-gather b",
                                            "all-gather b",
                                            "reduce-scatter b",
                                            "all-gather a",
                                            "reduce-scatter a",
                                            "all-reduce the gradient norm"};
  REQUIRE(order.size() > first_pass.size());
  CHECK(std::equal(first_pass.begin(), first_pass.end(), order.begin()));
}

TEST_CASE("ranks whose programs differ are told which collectives differ") {
  CHECK_THROWS_WITH_AS(run({.prefetch = 0_MiB, .steps = 1, .swapped_backward = true}),
                       "rank 0: all-gather of b (8192 bytes); rank 1: all-gather of a (8192 bytes)",
                       zerospan::DivergenceError);
}

/// Forward through a model, and backward, where each layer's compute takes twice as much.
void run_passes(sim::HostDevice& device, const std::vector<zerospan::PartitionedParameter<Ghost>>& model,
                double forward) {
  for (const auto& layer : model) {
    const auto full = layer.gather(zerospan::calling_thread);
    device.compute("forward", forward);
  }
  for (auto layer = model.rbegin(); layer != model.rend(); ++layer) {
    const auto full = layer->gather(zerospan::calling_thread);
    auto gradient = layer->gradient(zerospan::calling_thread);
    device.compute("backward", 2 * forward);
    gradient.commit();
  }
}

/// What a step of a model of 48 layers with everything on disk is bound by, on two ranks: each layer's shard is 128
/// KiB.
struct Load {
  double forward;  ///< Seconds of compute a layer; backward takes twice as long.
  double network;  ///< Bytes a second.
  double disk;     ///< Likewise, of reads and of writes.
  double update;
  zerospan::UpdateTime updates = zerospan::UpdateTime::after_step;
};

struct StepTimes {
  double step;
  double busiest;  ///< Of the lane, or the host, that has most to do in a step.
};

/// In the middle of a training.
StepTimes step_times(const Load& load) {
  constexpr std::size_t layers = 48;
  sim::Cluster cluster{sim::one_node(2, {{1e12}, {load.network}, load.update, 1.0})};
  for (int r = 0; r < cluster.size(); ++r) {
    sim::HostDevice device{cluster, zerospan::Rank{r}, {.device_budget = 4_MiB, .host_budget = 32_MiB}};
    sim::Communicator communicator{cluster, zerospan::Rank{r}};
    sim::Tier disk{device, {.capacity = 1_GiB, .own = sim::Disk{load.disk, load.disk}}};
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                communicator,
                                device,
                                zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
                                zerospan::AdamW{},
                                zerospan::EngineOptions{.updates = load.updates,
                                                        .persistence_threshold = zerospan::Bytes{0},
                                                        .prefetch = 2_MiB,
                                                        .staging = 24_MiB,
                                                        .sub_group_elements = std::size_t{3} << 15}};
    std::vector<zerospan::PartitionedParameter<Ghost>> model;
    for (std::size_t l = 0; l < layers; ++l) {
      model.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{std::size_t{1} << 16},
                         zerospan::init::zeros());
    }
    engine.begin(zerospan::Pass::training);
    for (int step = 0; step < 6; ++step) {
      device.compute("step begins", 0);
      run_passes(device, model, load.forward);
      engine.step();
    }
  }
  const auto events = cluster.resolve();
  const std::vector<double> steps = begins(events, 0, "step begins");
  const double from = steps[2];
  const double to = steps[5];
  std::map<std::string_view, double> busy;
  for (const sim::Event& e : events) {
    if (e.rank.value != 0 || e.kind == OperationKind::wait) continue;
    const bool is_read = e.kind == OperationKind::read;  // by two lanes, of one disk
    busy[is_read ? "disk read" : e.track] += std::max(0.0, std::min(e.end, to) - std::max(e.begin, from)) / 3;
  }
  const auto most = std::ranges::max_element(busy, {}, [](const auto& track) { return track.second; });
  return {(to - from) / 3, most->second};
}

TEST_CASE("a step takes hardly longer than its busiest lane") {
  constexpr double shard = 131072;
  const auto ratio = [](const Load& load) {
    const auto [step, busiest] = step_times(load);
    MESSAGE("a step of " << step << " s, of which the busiest lane works " << busiest << " s: " << step / busiest);
    return step / busiest;
  };
  // Bound by compute, by gathers, by compute with half as much disk, by all lanes about evenly, by the disk alone.
  CHECK(ratio({.forward = 4, .network = 1e9, .disk = 1e9, .update = 1e9}) < 1.01);
  CHECK(ratio({.forward = 0.5, .network = shard, .disk = 1e9, .update = 1e9}) < 1.01);
  CHECK(ratio({.forward = 1, .network = 1e9, .disk = 4 * shard, .update = 1e9}) < 1.03);
  CHECK(ratio({.forward = 4.0 / 3, .network = 1.5 * shard, .disk = 5 * shard, .update = 8 * shard}) < 1.03);
  CHECK(ratio({.forward = 0.1, .network = 1e9, .disk = 4 * shard, .update = 1e9}) < 1.17);
}

TEST_CASE("updates that take longer than a forward pass hide behind the backward pass too, where they are made in it") {
  Load load{.forward = 0.5, .network = 1e9, .disk = 1e9, .update = 131072 * 4.0};
  const double after = step_times(load).step;
  load.updates = zerospan::UpdateTime::during_backward;
  const auto [step, busiest] = step_times(load);
  MESSAGE(after << " s a step; where updates are made during the backward pass " << step << " s, of which " << busiest
                << " s are computed");
  CHECK(step < after);
}

TEST_CASE("a trillion parameters train in virtual time, byte for byte") {
  constexpr int ranks = 64;
  constexpr std::size_t layers = 100;
  constexpr std::size_t layer_elements = std::size_t{1'000'000'000'000} / layers;
  sim::Cluster cluster{sim::one_node(ranks, {{12e9}, {100e9}, 200e9, 50e12})};
  for (int r = 0; r < ranks; ++r) {
    sim::HostDevice device{cluster, zerospan::Rank{r}, {.device_budget = 320_GiB, .host_budget = 128_GiB}};
    sim::Communicator communicator{cluster, zerospan::Rank{r}};
    sim::Tier disk{device, {.capacity = 1024_GiB, .own = sim::Disk{1.6e9, 1.6e9}}};
    zerospan::ZeroEngine engine{
        zerospan::Stage3{},
        communicator,
        device,
        zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
        zerospan::AdamW{},
        zerospan::EngineOptions{.prefetch = 128_GiB, .staging = 64_GiB, .sub_group_elements = std::size_t{1} << 30}};
    std::vector<zerospan::PartitionedParameter<Ghost>> model;
    for (std::size_t l = 0; l < layers; ++l) {
      model.emplace_back(engine, std::string{"layer "} + std::to_string(l), zerospan::Shape{layer_elements},
                         zerospan::init::zeros());
    }
    std::uint64_t read_before = 0;
    std::uint64_t kept_before = 0;
    for (int step = 0; step < 2; ++step) {
      read_before = engine.statistics().bytes_read;
      kept_before = engine.statistics().prefetch.kept;
      run_passes(device, model, 1e12);
      engine.step();
      engine.synchronize();
    }
    // A step reads each shard twice as parameters, but for the last layers of forward, which stay for backward, and the
    // first ones, which were gathered from staging memory as the step before ended; and once as states and gradients.
    const std::size_t shard = zerospan::Partition::sliced(layer_elements, ranks).shard_elements;
    const std::uint64_t step_bytes = engine.statistics().bytes_read - read_before;
    const std::uint64_t kept = engine.statistics().prefetch.kept - kept_before;
    CHECK(kept >= 3);
    CHECK(step_bytes >= (2 * layers - kept - 3) * shard * 4 + layers * shard * (12 + 4));
    CHECK(step_bytes < (2 * layers - kept) * shard * 4 + layers * shard * (12 + 4));
  }
  const auto events = cluster.resolve();
  CHECK(events.back().end > 0);
}

}  // namespace
