#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_gpu_run.hpp"
#include "support/ghost.hpp"
#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Placement;
using zerospan::TierRef;
using zerospan::TierShare;
using zerospan_test::Array;

constexpr std::size_t elements = 40'000;
constexpr std::size_t placed = zerospan::round_up(elements, zerospan::block_elements);
const zerospan::EngineOptions small_groups{.persistence_threshold = zerospan::Bytes{0}, .sub_group_elements = 2048};

/// Trains one parameter. @return Its master weights after three steps.
template <class D>
std::vector<float> train(D& device, const zerospan_test::Compute& compute, const Placement& placement) {
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, placement, zerospan::AdamW{}, small_groups};
  const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {elements}, zerospan::init::normal(1.0F)};
  for (int step = 0; step < 3; ++step) {
    auto gradient = weight.gradient(compute.stream());
    compute.run([data = compute.write(gradient->data, elements), step] {
      for (std::size_t i = 0; i < elements; ++i) data[i] = zerospan_test::noise(0, {0, step, 0}, i);
    });
    gradient.commit();
    engine.step();
  }
  std::vector<float> masters;
  engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
    masters.insert(masters.end(), values.begin(), values.end());
  });
  return masters;
}

template <class D>
void check_shares(D& device, const zerospan_test::Compute& compute) {
  zerospan::ThreadedIoEngine io;
  zerospan::NvmeTier nvme{io, {.directory = std::filesystem::temp_directory_path().string()}};
  zerospan::DeviceTier on_device{device};
  zerospan::HostTier host{device};
  const auto expected = train(device, compute, Placement{on_device, on_device, on_device});
  CHECK(expected.size() == elements);
  for (const TierRef rest : {TierRef{host}, TierRef{nvme}}) {
    for (const double fraction : {0.25, 0.5, 0.9}) {
      CAPTURE(rest.name());
      CAPTURE(fraction);
      zerospan::DeviceTier share{device};
      const Placement placement{host, host, rest, TierShare{share, fraction}};
      CHECK(train(device, compute, placement) == expected);
      const double of_all = static_cast<double>(share.counters().peak.count) / (8.0 * placed);  // moments
      CHECK(of_all <= fraction);
      CHECK(of_all > fraction - 0.1);  // less than a sub-group is missing
      CHECK(share.counters().used == 0_KiB);
    }
  }
}

TEST_CASE("a share of the optimizer's states on another tier makes no difference to the bits") {
  zerospan::HostDevice device;
  check_shares(device, zerospan_test::ThreadCompute{});
}

TEST_CASE("where the share is in memory of the device's own, device and host update side by side, to the same bits") {
  const auto gpu = std::make_shared<zerospan_test::FakeGpu>();
  zerospan_test::FakeDevice device{zerospan_test::FakeRuntime{gpu}};
  check_shares(device, zerospan_test::FakeCompute{gpu});
}

TEST_CASE("a replicated parameter is published when both sides have written their parts of it") {
  namespace sim = zerospan::sim;
  // In virtual time: what the host updates is late, for it is copied slowly; the device's part comes last, and is
  // early.
  sim::Cluster cluster{sim::one_node(2, {.copy = {1e6}, .network = {1e9}, .update = 1e9}),
                       {.simulate = sim::Simulate::one_of_equals}};
  sim::Device device{cluster, zerospan::Rank{0}, {.device_budget = 1_GiB, .host_budget = 1_GiB}};
  sim::Communicator communicator{cluster, zerospan::Rank{0}};
  zerospan::DeviceTier on_device{device};
  zerospan::HostTier on_host{device};
  zerospan::ZeroEngine engine{
      zerospan::Stage1{}, communicator, device, Placement{on_device, on_device, on_host, TierShare{on_device, 0.5}},
      zerospan::AdamW{},  small_groups};
  const zerospan::PartitionedParameter<zerospan_test::Ghost<float>> weight{
      engine, "weight", {4 * small_groups.sub_group_elements}, zerospan::init::zeros()};
  weight.gradient(device.stream()).commit();
  engine.step();
  engine.synchronize();
  double written = 0;
  double published = 0;
  for (const sim::Event& event : cluster.resolve()) {
    if (event.name.starts_with("sub-group")) written = std::max(written, event.end);
    if (event.kind == zerospan::OperationKind::all_gather) published = event.begin;
  }
  CHECK(written > 0);
  CHECK(published >= written);
}

TEST_CASE("a share is a fraction, and has to fit") {
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = 4_MiB}};
  zerospan::DeviceTier on_device{device};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  const auto make = [&](double fraction) {
    return zerospan::ZeroEngine{
        zerospan::Stage3{}, self,        device, Placement{host, host, host, TierShare{on_device, fraction}},
        zerospan::AdamW{},  small_groups};
  };
  for (const double fraction : {0.0, 1.0, -0.5, 2.0, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_AS(static_cast<void>(make(fraction)), zerospan::ConfigurationError);
  }
  zerospan::ZeroEngine engine{
      zerospan::Stage3{}, self,        device, Placement{host, host, host, TierShare{on_device, 0.9}},
      zerospan::AdamW{},  small_groups};
  CHECK_THROWS_AS(
      (zerospan::PartitionedParameter<Array<float>>{engine, "too large", {180'000}, zerospan::init::constant(0)}),
      zerospan::BudgetError);
}

}  // namespace
