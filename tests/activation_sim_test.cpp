#include <doctest/doctest.h>

#include <cstddef>
#include <string_view>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/tier/host_tier.hpp>

#include "support/ghost.hpp"

namespace {

namespace sim = zerospan::sim;
using namespace zerospan::literals;
using zerospan::calling_thread;

using Ghost = zerospan_test::Ghost<float>;

// A checkpoint is 8192 bytes, and takes 1 s to copy, to write and to read. The staging memory has eight pieces of that
// size, so that each checkpoint is moved whole.
constexpr std::size_t elements = 2048;
constexpr std::size_t bytes = elements * sizeof(float);
constexpr sim::Rates rates{{8192}, {8192}, 8192, 1.0};

struct Program {
  int layers;
  std::size_t on_device;  ///< Checkpoints that fit into device memory.
  double forward;         ///< Seconds of one layer.
  double backward;
  int steps = 2;
};

struct Times {
  std::vector<double> forward;  ///< Seconds of each step.
  std::vector<double> backward;
  zerospan::ActivationCounters counters;
};

void run_step(sim::HostDevice& device, zerospan::ActivationCheckpoints& checkpoints, const Program& program) {
  device.compute("forward begins", 0);
  for (int layer = 0; layer < program.layers; ++layer) {
    auto saved = checkpoints.push<Ghost>(calling_thread, {elements});
    device.compute("layer", program.forward);
    saved.commit();
  }
  device.compute("backward begins", 0);
  for (int layer = 0; layer < program.layers; ++layer) {
    const auto x = checkpoints.pop<Ghost>(calling_thread);
    device.compute("layer", program.backward);
  }
  device.compute("backward ends", 0);
}

Times run(const Program& program) {
  sim::Cluster cluster{sim::one_node(1, rates)};
  sim::HostDevice device{cluster, zerospan::Rank{0}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
  sim::Tier disk{device, {.capacity = 1_GiB, .own = sim::Disk{8192, 8192}}};
  Times times;
  {
    zerospan::ActivationCheckpoints checkpoints{device,
                                                disk,
                                                {.bytes = 512_KiB,
                                                 .device_bytes = zerospan::Bytes{program.on_device * bytes},
                                                 .staging = zerospan::Bytes{8 * bytes}}};
    for (int step = 0; step < program.steps; ++step) run_step(device, checkpoints, program);
    times.counters = checkpoints.counters();
  }
  double last = 0;
  for (const sim::Event& e : cluster.resolve()) {
    if (e.name == "backward begins") times.forward.push_back(e.begin - last);
    if (e.name == "backward ends") times.backward.push_back(e.begin - last);
    if (e.name.find("begins") != e.name.npos || e.name == "backward ends") last = e.begin;
  }
  return times;
}

TEST_CASE("transfers hide behind compute that takes as long: the times are those of the compute") {
  const Times times = run({.layers = 10, .on_device = 3, .forward = 1, .backward = 2});
  // In the first pass, who leaves is copied out (1 s) when its memory is needed, for seven of ten pushes.
  CHECK(times.forward[0] == 10 * 1 + 7 * 1);
  CHECK(times.backward[0] == 10 * 2);
  // From then on it is copied out while the next layer computes.
  CHECK(times.forward[1] == 10 * 1);
  CHECK(times.backward[1] == 10 * 2);
  CHECK(times.counters.bytes_offloaded == 2 * 7 * bytes);
  CHECK(times.counters.bytes_fetched == 2 * 7 * bytes);
  CHECK(times.counters.misses == 0);
}

TEST_CASE("where memory is short, the time is that of its refills") {
  // Each of two buffers is read for 1 s and refilled for 2 s (read and copied): after the first pair, which is there
  // when backward begins, a pair takes 3 s.
  const Times times = run({.layers = 10, .on_device = 2, .forward = 2, .backward = 1});
  CHECK(times.forward[1] == 10 * 2);
  CHECK(times.backward[1] == 2 * 1 + 4 * 3);
}

TEST_CASE("one buffer more hides the refills") {
  const Times times = run({.layers = 10, .on_device = 3, .forward = 2, .backward = 1});
  CHECK(times.backward[1] == 10 * 1);
}

TEST_CASE("where the tier is too slow, the time is the tier's") {
  // Seven reads of 1 s, one after the other, from the first release (0.25 s) on; then one copy and one computation.
  const Times times = run({.layers = 10, .on_device = 3, .forward = 2, .backward = 0.25});
  CHECK(times.backward[1] == 0.25 + 7 * 1 + 1 + 0.25);
}

TEST_CASE("a stack that fits costs no time at all") {
  const Times times = run({.layers = 10, .on_device = 10, .forward = 1, .backward = 1, .steps = 1});
  CHECK(times.forward[0] == 10);
  CHECK(times.backward[0] == 10);
  CHECK(times.counters.operations[zerospan::OperationKind::copy].count == 0);
}

}  // namespace
