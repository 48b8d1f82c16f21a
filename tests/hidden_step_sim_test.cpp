// How much of an optimizer step hides behind passes through the model, in virtual time.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

namespace {

namespace sim = zerospan::sim;
using zerospan::calling_thread;
using zerospan::OperationKind;
using zerospan::UpdateTime;
using namespace zerospan::literals;

struct Ghost {
  zerospan::bfloat16* data;
};

}  // namespace

template <>
struct zerospan::TensorTraits<Ghost> {
  using element_type = zerospan::bfloat16;
  static Ghost unbound(const Shape&) { return {nullptr}; }
  static void bind(Ghost& tensor, bfloat16* data) { tensor.data = data; }
  static bfloat16* data(const Ghost& tensor) { return tensor.data; }
};

namespace {

/// The node of ZeRO-Infinity (arXiv 2104.07857): 16 GPUs, whose share of the node's NVMe is 1.6 GB/s each way.
constexpr double disk_rate = 25.6e9;
constexpr sim::Topology dgx2{.ranks_per_node = 16,
                             .within = {.bytes_per_second = 70e9},
                             .host_link = {.to_device = {3e9}, .to_host = {3e9}},
                             .disk = {.read = disk_rate, .write = disk_rate, .scope = sim::Scope::node},
                             .host_memory = {.bytes_per_second = 200e9},
                             .device_memory = {.bytes_per_second = 800e9},
                             .flops_per_second = 1};

constexpr double forward_seconds = 205;  // of a pass; a backward pass takes twice as long

struct Training {
  UpdateTime updates = UpdateTime::after_step;
  double early_share = zerospan::EngineOptions{}.early_share;
};

struct StepTimes {
  double step = 0;
  double reads = 0;   ///< Of the disk: bytes of the node by its rate.
  double writes = 0;  ///< Likewise.

  double busiest() const { return std::max({3 * forward_seconds, reads, writes}); }
};

/// Of a trillion parameters in 16 bits, with everything on disk: a step in the middle of a training.
StepTimes step_of(const Training& training) {
  constexpr std::size_t layers = 128;
  constexpr std::size_t matrices = 12;  // of a layer
  constexpr std::size_t elements = std::size_t{1'000'000'000'000} / layers / matrices;
  constexpr int steps = 4;
  sim::Cluster cluster{dgx2, {.simulate = sim::Simulate::one_of_equals}};
  for (const zerospan::Rank rank : cluster.ranks()) {
    sim::Device device{cluster, rank, {.device_budget = 24_GiB, .host_budget = 64_GiB}};
    sim::Communicator communicator{cluster, rank};
    sim::Tier disk{device, {.capacity = 2048_GiB}};
    zerospan::ZeroEngine engine{
        zerospan::Stage3{},
        communicator,
        device,
        zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
        zerospan::AdamW{},
        zerospan::EngineOptions{.updates = training.updates, .early_share = training.early_share, .prefetch = 2_GiB}};
    std::vector<zerospan::PartitionedParameter<Ghost>> model;
    for (std::size_t m = 0; m < layers * matrices; ++m) {
      model.emplace_back(engine, "matrix " + std::to_string(m), zerospan::Shape{elements}, zerospan::init::zeros());
    }
    engine.begin(zerospan::Pass::training);
    const double forward = forward_seconds / static_cast<double>(model.size());
    for (int step = 0; step < steps; ++step) {
      device.compute("step begins", 0);
      for (const auto& matrix : model) {
        const auto full = matrix.gather(device.stream());
        device.compute("forward", forward);
      }
      for (auto matrix = model.rbegin(); matrix != model.rend(); ++matrix) {
        const auto full = matrix->gather(device.stream());
        auto gradient = matrix->gradient(device.stream());
        device.compute("backward", 2 * forward);
        gradient.commit();
      }
      engine.step();
    }
  }

  const sim::Schedule schedule = cluster.resolve();
  std::vector<double> begins;
  for (const sim::Event& e : schedule) {
    if (e.name == "step begins") begins.push_back(e.begin);
  }
  REQUIRE(begins.size() == steps);
  const double from = begins[2];
  const double to = begins[3];
  StepTimes times{.step = to - from};
  for (const sim::Event& e : schedule) {
    if (e.end <= from || e.end > to) continue;
    const double seconds = static_cast<double>(e.bytes) * cluster.size() / disk_rate;
    if (e.kind == OperationKind::read) times.reads += seconds;
    if (e.kind == OperationKind::write) times.writes += seconds;
  }
  MESSAGE("a step of " << times.step << " s: compute takes " << 3 * forward_seconds << " s, reads " << times.reads
                       << " s, writes " << times.writes << " s");
  return times;
}

TEST_CASE("a step of a trillion parameters on one node takes as long as its busiest lane, where updates come early") {
  const StepTimes early = step_of({.updates = UpdateTime::during_backward});
  CHECK(early.step < 1.05 * early.busiest());
}

TEST_CASE("behind the next forward pass alone, updates take what the disk needs for them, and nothing more") {
  const StepTimes after = step_of({});
  CHECK(after.step < 1.02 * (2 * forward_seconds + after.writes));  // all of the step's writes are updates
}

/// How many updates a step has of a model of so many layers of bf16, on one rank with as much host memory.
std::ptrdiff_t updates_of_a_step(std::size_t layers, std::size_t elements, zerospan::Bytes host_budget) {
  sim::Cluster cluster{sim::one_node(1, {.copy = {1e9}, .network = {1e9}, .update = 1e9})};
  sim::HostDevice device{cluster, zerospan::Rank{0}, {.device_budget = 1_GiB, .host_budget = host_budget}};
  sim::Communicator communicator{cluster, zerospan::Rank{0}};
  sim::Tier disk{device, {.capacity = 64_GiB, .own = sim::Disk{1e9, 1e9}}};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
                              zerospan::AdamW{}};
  std::vector<zerospan::PartitionedParameter<Ghost>> model;
  for (std::size_t l = 0; l < layers; ++l) {
    model.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{elements}, zerospan::init::zeros());
  }
  for (const auto& layer : model) layer.gradient(zerospan::calling_thread).commit();
  engine.step();
  engine.synchronize();
  const sim::Schedule schedule = cluster.resolve();
  return std::ranges::count(schedule, OperationKind::update, &sim::Event::kind);
}

TEST_CASE("a model has a dozen sub-groups or more, however much memory there is for them") {
  constexpr std::size_t million = std::size_t{1} << 20;
  CHECK(updates_of_a_step(24, million, 16_GiB) == 12);  // of two layers each
  CHECK(updates_of_a_step(24, million / 16, 16_GiB) == 12);
  CHECK(updates_of_a_step(24, million, 256_MiB) == 46);     // twelve fit into 128 MiB of staging memory
  CHECK(updates_of_a_step(24, 8 * million, 16_GiB) == 24);  // no larger than the options say
  CHECK(updates_of_a_step(24, 8192, 16_GiB) == 4);          // no less than 1 MiB of staging memory
  CHECK(updates_of_a_step(1, 4096, 16_GiB) == 1);
}

}  // namespace
