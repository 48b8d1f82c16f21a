#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/fake_gpu_run.hpp"
#include "support/training_matrix.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::Place;
using zerospan_test::TrainingResult;

TEST_CASE("with streams and memory of its own, every pair of choices trains to the bits of the oracle") {
  zerospan_test::compare_all(zerospan_test::pairwise_matrix(20250311),
                             [](const Configuration& c) { return zerospan_test::train_on_fake_gpu(c); });
}

/// AdamW, which the host runs wherever its states rest.
struct HostAdamW : zerospan::AdamW {
  static constexpr bool updates_on_host = true;
};

static_assert(zerospan::UpdatesOn<zerospan::AdamW, zerospan_test::FakeStream>);
static_assert(zerospan::UpdatesOnHost<HostAdamW> && !zerospan::UpdatesOnHost<zerospan::AdamW>);

/// Trains one parameter on `device`. @return Its master weights after three steps.
template <class D, class O>
std::vector<float> train_one(D& device, const zerospan_test::Compute& compute, const O& optimizer) {
  zerospan::DeviceTier tier{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, zerospan::Placement{tier, tier, tier}, optimizer};
  const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {5001}, zerospan::init::normal(1.0F)};
  for (int step = 0; step < 3; ++step) {
    auto gradient = weight.gradient(compute.stream());
    compute.run([data = compute.write(gradient->data, 5001), step] {
      for (std::size_t i = 0; i < 5001; ++i) data[i] = zerospan_test::noise(0, {0, step, 0}, i);
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

TEST_CASE_TEMPLATE("whether the device knows an optimizer or the host runs it makes no difference", O, zerospan::AdamW,
                   zerospan::Lion, HostAdamW) {
  zerospan::HostDevice host;
  const auto gpu = std::make_shared<zerospan_test::FakeGpu>();
  zerospan_test::FakeDevice device{zerospan_test::FakeRuntime{gpu}};
  const auto expected = train_one(host, zerospan_test::ThreadCompute{}, O{});
  CHECK(expected.size() == 5001);
  CHECK(train_one(device, zerospan_test::FakeCompute{gpu}, O{}) == expected);
}

TEST_CASE("what a released lease has enqueued reads a replicated parameter as it was before the step, or the write") {
  static constexpr std::size_t elements = 16;
  const auto gpu = std::make_shared<zerospan_test::FakeGpu>();
  zerospan_test::FakeDevice device{zerospan_test::FakeRuntime{gpu}};
  const zerospan_test::FakeCompute compute{gpu};
  const zerospan_test::FakeCompute other{gpu};
  zerospan::DeviceTier tier{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, zerospan::Placement{tier, tier, tier},
                              zerospan::Sgd{.learning_rate = 1.0F}};
  const zerospan::PartitionedParameter<Array<float>> weight{engine, "weight", {elements}, zerospan::init::ones()};
  float seen = 0;
  const auto read_slowly = [&] {
    const auto full = weight.gather(compute.stream());
    compute.run([&seen, data = compute.read(full->data, elements)] {
      std::this_thread::sleep_for(std::chrono::milliseconds{100});
      seen = data[0];
    });
  };
  const auto commit = [&] {
    auto gradient = weight.gradient(other.stream());
    other.run([data = other.write(gradient->data, elements)] { std::fill_n(data, elements, 1.0F); });
    gradient.commit();
  };
  read_slowly();
  commit();
  engine.step();
  compute.finish();
  CHECK(seen == 1.0F);

  read_slowly();
  auto rewritten = weight.write(other.stream());
  other.run([data = other.write(rewritten->data, elements)] { std::fill_n(data, elements, 5.0F); });
  rewritten.commit();
  compute.finish();
  CHECK(seen == 0.0F);
  read_slowly();
  compute.finish();
  CHECK(seen == 5.0F);
}

TEST_CASE("memory that the host cannot touch is refused below an adaptor, which copies on the host's threads") {
  const auto gpu = std::make_shared<zerospan_test::FakeGpu>();
  zerospan_test::FakeDevice device{zerospan_test::FakeRuntime{gpu}};
  zerospan::DeviceTier tier{device};
  tier.reserve(zerospan::Bytes{4096}, "something");
  const zerospan::Extent extent = tier.place(4096);
  std::array<std::byte, 16> bytes{};
  CHECK_THROWS_AS(tier.read(extent, 0, bytes.data(), bytes.size()), zerospan::ConfigurationError);
  CHECK_THROWS_AS(tier.write(extent, 0, bytes.data(), bytes.size()), zerospan::ConfigurationError);
  tier.remove(extent);
}

TEST_CASE("repetitions give the same bits") {
  Configuration c;
  c.parameters = c.gradients = Place::host;
  c.optimizer = Place::nvme;
  c.training.ranks = 3;
  c.training.micro_batches = 2;
  const TrainingResult first = zerospan_test::train_on_fake_gpu(c);
  for (int i = 0; i < 3; ++i) CHECK(zerospan_test::train_on_fake_gpu(c) == first);
}

}  // namespace
