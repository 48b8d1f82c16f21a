#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::LeaseError;
using zerospan::Rank;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Array;
using zerospan_test::frozen;
using zerospan_test::Memory;
using zerospan_test::Place;

using Parameter = zerospan::PartitionedParameter<Array<float>>;

/// One rank with all states on disk, and two parameters of some size.
struct Rig {
  ThreadedIoEngine io;
  Memory<ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  SelfCommunicator self;
  zerospan::ZeroEngine<zerospan::Stage3, SelfCommunicator, zerospan::HostDevice, zerospan::AdamW> engine{
      zerospan::Stage3{}, self,
      memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
      zerospan::AdamW{},  zerospan::EngineOptions{.micro_batches = 2, .persistence_threshold = 0_KiB}};
  Parameter a{engine, "a", {1000}, zerospan::init::constant(1)};
  Parameter b{engine, "b", {3000}, zerospan::init::constant(2)};
};

template <class Lease>
void fill(Lease& lease, float value) {
  for (std::size_t k = 0; k < lease->size; ++k) lease->data[k] = value;
}

TEST_CASE("without a lease a tensor is unbound") {
  Rig rig;
  auto read = rig.a.gather(calling_thread);
  REQUIRE(read->data != nullptr);
  CHECK(read->size == 1000);
  CHECK(read->data[999] == 1);
  read.release();
  CHECK(read->data == nullptr);
  read.release();

  auto gradient = rig.a.gradient(calling_thread);
  fill(gradient, 1);
  gradient.commit();
  CHECK(gradient->data == nullptr);

  auto write = rig.a.write(calling_thread);
  write.release();
  CHECK(write->data == nullptr);
}

TEST_CASE("readers of a parameter share its buffer, whatever it was gathered with") {
  Rig rig;
  auto [a, b] = gather(calling_thread, rig.a, rig.b);
  const auto again = rig.a.gather(calling_thread);
  CHECK(again->data == a->data);
  a.release();
  b.release();
  CHECK(again->data[0] == 1);
  const auto twice = gather(calling_thread, rig.b, rig.b);
  CHECK(std::get<0>(twice)->data == std::get<1>(twice)->data);
  CHECK(std::get<0>(twice)->data[2999] == 2);
}

TEST_CASE("leases end in any order") {
  Rig rig;
  for (int pass = 0; pass < 4; ++pass) {
    for (int micro = 0; micro < 2; ++micro) {
      auto a = rig.a.gather(calling_thread);
      auto gradient_b = rig.b.gradient(calling_thread);
      auto b = rig.b.gather(calling_thread);
      auto gradient_a = rig.a.gradient(calling_thread);
      fill(gradient_a, 0.5F);
      fill(gradient_b, 0.25F);
      a.release();
      gradient_b.commit();
      CHECK(b->data[1234] == b->data[0]);
      gradient_a.commit();
      b.release();
    }
    CHECK(rig.engine.step().gradient_norm == doctest::Approx(std::sqrt(1000 * 0.25 + 3000 * 0.0625)).epsilon(1e-12));
  }
}

TEST_CASE("a gradient is leased once at a time") {
  Rig rig;
  auto gradient = rig.a.gradient(calling_thread);
  CHECK_THROWS_WITH_AS(static_cast<void>(rig.a.gradient(calling_thread)), "the gradient of a is leased already",
                       LeaseError);
  CHECK_THROWS_AS(rig.a.skip(), LeaseError);
  gradient.discard();
  auto next = rig.a.gradient(calling_thread);
  fill(next, 1);
  next.commit();
  CHECK(rig.engine.step().gradient_norm == doctest::Approx(std::sqrt(1000.0) / 2).epsilon(1e-12));
}

TEST_CASE("a gradient is committed at most once a micro-batch") {
  Rig rig;
  for (int step = 0; step < 2; ++step) {
    for (int micro = 0; micro < 2; ++micro) {
      auto gradient = rig.a.gradient(calling_thread);
      fill(gradient, 1);
      gradient.commit();
      CHECK_THROWS_WITH_AS(gradient.commit(), "the lease was released already", LeaseError);
    }
    CHECK_THROWS_WITH_AS(static_cast<void>(rig.a.gradient(calling_thread)),
                         doctest::Contains("a was committed 2 times in this step"), LeaseError);
    CHECK_THROWS_AS(rig.a.skip(), LeaseError);
    CHECK(rig.engine.step().gradient_norm == std::sqrt(1000.0 * 4) / 2);
  }
}

TEST_CASE("a gradient that is discarded counts as unused") {
  Rig rig;
  static_cast<void>(rig.a.gather(calling_thread));
  auto gradient = rig.a.gradient(calling_thread);
  fill(gradient, 1);
  gradient.discard();
  CHECK(rig.engine.step().gradient_norm == 0);
  CHECK(rig.a.gather(calling_thread)->data[0] == 1);
}

TEST_CASE("a step refuses while a gradient was forgotten") {
  Rig rig;
  {
    auto gradient = rig.a.gradient(calling_thread);
    fill(gradient, 1);
  }
  CHECK_THROWS_WITH_AS(rig.engine.step(), doctest::Contains("gradient of a"), LeaseError);
  rig.engine.abandon();
  CHECK(rig.engine.step().gradient_norm == 0);
  CHECK(rig.a.gather(calling_thread)->data[0] == 1);
}

TEST_CASE("a step lists the leases that are held") {
  Rig rig;
  auto a = rig.a.gather(calling_thread);
  auto gradient = rig.b.gradient(calling_thread);
  CHECK_THROWS_WITH_AS(rig.engine.step(), "step() while leases are held: a read lease of a, a gradient lease of b",
                       LeaseError);
  CHECK_THROWS_WITH_AS(rig.engine.begin(zerospan::Pass::evaluation),
                       "begin() while leases are held: a read lease of a, a gradient lease of b", LeaseError);
  a.release();
  gradient.discard();
  auto write = rig.b.write(calling_thread);
  CHECK_THROWS_WITH_AS(rig.engine.step(), "step() while leases are held: a write lease of b", LeaseError);
  write.release();
  CHECK(rig.engine.step().step == 1);
}

TEST_CASE("a write lease excludes readers and other writers") {
  Rig rig;
  const auto tied = rig.a.tie("tied");
  auto read = rig.a.gather(calling_thread);
  CHECK_THROWS_WITH_AS(static_cast<void>(rig.a.write(calling_thread)),
                       "a cannot be leased for writing beside a read lease of a", LeaseError);
  CHECK_THROWS_AS(static_cast<void>(tied.write(calling_thread)), LeaseError);
  read.release();
  auto write = rig.a.write(calling_thread);
  CHECK_THROWS_WITH_AS(static_cast<void>(rig.a.gather(calling_thread)), "a is leased for writing", LeaseError);
  CHECK_THROWS_WITH_AS(static_cast<void>(tied.gather(calling_thread)), "tied is leased for writing", LeaseError);
  CHECK_THROWS_AS(static_cast<void>(rig.a.write(calling_thread)), LeaseError);
  CHECK(rig.b.gather(calling_thread)->data[0] == 2);
  write.release();
  CHECK(rig.a.gather(calling_thread)->data[0] == 1);
}

TEST_CASE("nobody reads what was gathered before a write") {
  Rig rig;
  auto [a, b] = gather(calling_thread, rig.a, rig.b);
  a.release();  // its values stay beside b's
  CHECK_THROWS_WITH_AS(static_cast<void>(rig.a.write(calling_thread)),
                       "a cannot be leased for writing beside a read lease of b", LeaseError);
  CHECK(rig.a.gather(calling_thread)->data[0] == 1);
  b.release();
  auto write = rig.a.write(calling_thread);
  fill(write, 8);
  write.commit();
  CHECK(rig.a.gather(calling_thread)->data[0] == 8);
}

TEST_CASE("a tensor that was bound elsewhere cannot be committed") {
  Rig rig;
  std::vector<float> elsewhere(1000);
  auto gradient = rig.a.gradient(calling_thread);
  gradient->data = elsewhere.data();
  CHECK_THROWS_WITH_AS(gradient.commit(), doctest::Contains("bound to other storage"), LeaseError);
  gradient.discard();
  auto write = rig.a.write(calling_thread);
  write->data = elsewhere.data();
  CHECK_THROWS_AS(write.commit(), LeaseError);
  write.release();
  CHECK(rig.engine.step().gradient_norm == 0);
  CHECK(rig.a.gather(calling_thread)->data[0] == 1);
}

TEST_CASE("declaration ends at the first gather") {
  Rig rig;
  CHECK_THROWS_WITH_AS((Parameter{rig.engine, "a", {1}, zerospan::init::zeros()}), "two parameters are named a",
                       ConfigurationError);
  CHECK_THROWS_AS(static_cast<void>(rig.a.tie("b")), ConfigurationError);
  static_cast<void>(rig.a.gather(calling_thread));
  CHECK_THROWS_WITH_AS((Parameter{rig.engine, "late", {1}, zerospan::init::zeros()}),
                       "parameter late is declared after the first gather", ConfigurationError);
  CHECK_THROWS_AS(static_cast<void>(rig.a.tie("late")), ConfigurationError);
}

TEST_CASE("a frozen parameter has no gradient") {
  Rig rig;
  const Parameter ice{rig.engine, "ice", {5000}, zerospan::init::constant(3), frozen};
  const Parameter tied = ice.tie("more ice");
  CHECK_THROWS_WITH_AS(static_cast<void>(ice.gradient(calling_thread)), "ice is frozen: it has no gradient",
                       LeaseError);
  CHECK_THROWS_AS(static_cast<void>(tied.gradient(calling_thread)), LeaseError);
  CHECK_THROWS_AS(ice.skip(), LeaseError);
  CHECK(tied.gather(calling_thread)->data[4999] == 3);
}

TEST_CASE("a lease that was moved from is empty") {
  Rig rig;
  auto first = rig.a.gradient(calling_thread);
  auto second = std::move(first);
  fill(second, 1);
  CHECK_THROWS_AS(first.commit(), LeaseError);  // NOLINT(bugprone-use-after-move)
  auto other = rig.b.gradient(calling_thread);
  fill(other, 1);
  second.commit();
  second = std::move(other);
  second.commit();
  CHECK(rig.engine.step().gradient_norm == std::sqrt(4000.0) / 2);

  auto a = rig.a.gather(calling_thread);
  auto b = rig.b.gather(calling_thread);
  a = std::move(b);  // ends the lease of a
  CHECK(a->size == 3000);
  auto write = rig.a.write(calling_thread);
  write.release();
  CHECK_THROWS_AS(static_cast<void>(rig.b.write(calling_thread)), LeaseError);
}

TEST_CASE("an engine is used by whichever thread, one at a time") {
  Rig rig;
  for (int step = 0; step < 3; ++step) {
    std::optional<zerospan::GradientLease<Array<float>>> gradient;
    std::thread{[&] { gradient.emplace(rig.a.gradient(calling_thread)); }}.join();
    fill(*gradient, 1);
    std::thread{[&] { gradient->commit(); }}.join();
    std::optional<zerospan::ReadLease<Array<float>>> read{rig.b.gather(calling_thread)};
    std::thread{[lease = std::move(read)]() mutable { lease.reset(); }}.join();
    double norm = 0;
    std::thread{[&] { norm = rig.engine.step().gradient_norm; }}.join();
    CHECK(norm == std::sqrt(1000.0) / 2);
  }
}

TEST_CASE("leases and parameters that outlive their engine are inert") {
  std::optional<zerospan::ReadLease<Array<float>>> read;
  std::optional<zerospan::GradientLease<Array<float>>> gradient;
  std::optional<zerospan::WriteLease<Array<float>>> write;
  std::optional<Parameter> parameter;
  {
    Rig rig;
    parameter.emplace(rig.a);
    read.emplace(rig.a.gather(calling_thread));
    gradient.emplace(rig.a.gradient(calling_thread));
    write.emplace(rig.b.write(calling_thread));
    fill(*gradient, 5);
  }
  CHECK((*read)->data[999] == 1);
  CHECK((*gradient)->data[999] == 5);
  CHECK((*write)->data[2999] == 2);
  CHECK_THROWS_WITH_AS(gradient->commit(), "the engine of this parameter is gone", LeaseError);
  CHECK_THROWS_AS(write->commit(), LeaseError);
  CHECK_THROWS_AS(static_cast<void>(parameter->gather(calling_thread)), LeaseError);
  CHECK_THROWS_AS(static_cast<void>(parameter->gradient(calling_thread)), LeaseError);
  CHECK_THROWS_AS(static_cast<void>(parameter->write(calling_thread)), LeaseError);
  CHECK_THROWS_AS(static_cast<void>(parameter->tie("tied")), LeaseError);
  CHECK_THROWS_AS(parameter->skip(), LeaseError);
  read->release();
  CHECK((*read)->data == nullptr);
}

TEST_CASE("parameters are leased as ranges") {
  Rig rig;
  const std::vector<Parameter> model{rig.a, rig.b};
  for (int micro = 0; micro < 2; ++micro) {
    const auto full = gather(calling_thread, model);
    CHECK(full[0]->data[999] == 1);
    CHECK(full[1]->data[2999] == 2);
    auto written = gradients(calling_thread, zerospan::GradientContent::zeros, model);
    CHECK(written[1]->data[2999] == 0);
    for (auto& gradient : written) {
      fill(gradient, 1);
      gradient.commit();
    }
  }
  CHECK(rig.engine.step().gradient_norm == std::sqrt(4000.0));
}

TEST_CASE("a parameter is frozen between steps, and unfrozen") {
  Rig rig;
  const auto train = [&] {
    for (int micro = 0; micro < 2; ++micro) {
      if (!rig.a.trains()) continue;
      auto gradient = rig.a.gradient(calling_thread);
      fill(gradient, 1);
      CHECK_THROWS_AS(rig.a.freeze(), LeaseError);
      gradient.commit();
      CHECK_THROWS_AS(rig.a.freeze(), LeaseError);
    }
    rig.engine.step();
    return rig.a.gather(calling_thread)->data[0];
  };
  const float once = train();
  CHECK(once < 1);
  rig.a.freeze();
  CHECK_THROWS_AS(static_cast<void>(rig.a.gradient(calling_thread)), LeaseError);
  CHECK(train() == once);
  rig.a.unfreeze();
  CHECK(train() < once);
}

TEST_CASE("a write that reads nothing publishes what was written") {
  Rig rig;
  auto write = rig.a.write(calling_thread, zerospan::WriteContent::undefined);
  fill(write, 6);
  write.commit();
  CHECK(rig.a.gather(calling_thread)->data[999] == 6);
}

TEST_CASE("parameters of different engines are not gathered together") {
  Rig first;
  Rig second;
  CHECK_THROWS_AS(static_cast<void>(gather(calling_thread, first.a, second.b)), LeaseError);
  CHECK(first.a.gather(calling_thread)->data[0] == 1);
}

TEST_CASE("the rank that a write comes from exists") {
  Rig rig;
  auto write = rig.a.write(calling_thread);
  CHECK_THROWS_AS(write.commit(Rank{1}), ConfigurationError);
  CHECK_THROWS_AS(write.commit(Rank{-1}), ConfigurationError);
  fill(write, 4);
  write.commit();
  CHECK(rig.a.gather(calling_thread)->data[999] == 4);
}

constexpr std::array<std::size_t, 6> written_layers{0, 1, 3, 5, 6, 9};

/// Writes to some parameters between the steps of a training; each rank fills its lease, one of them counts.
template <zerospan::Element E>
zerospan_test::TrainingResult train_with_writes(const zerospan_test::Configuration& c) {
  return zerospan_test::join_results(zerospan::run_ranks(c.training.ranks, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 16_MiB, 16_MiB};
    zerospan_test::AnyEngine engine{c.stage,
                                    communicator,
                                    memory.device,
                                    memory.placement(c.parameters, c.gradients, c.optimizer),
                                    c.training.optimizer,
                                    zerospan_test::engine_options(c)};
    const zerospan_test::ToyModel<E> model{engine};
    zerospan_test::TrainingResult result;
    const int me = communicator.rank().value;
    const int last = communicator.size() - 1;
    for (std::int64_t step = 0; step < 3; ++step) {
      for (const std::size_t layer : written_layers) {
        auto dropped = model[layer].write(calling_thread);
        for (std::size_t k = 0; k < dropped->size; ++k) dropped->data[k] = E{99.0F};
        dropped.release();
        auto write = model[layer].write(calling_thread);
        const float sign = me == last ? 1.0F : -1.0F;
        for (std::size_t k = 0; k < write->size; ++k) {
          write->data[k] = E{static_cast<float>(write->data[k]) + sign * zerospan_test::noise(layer, {0, step, 9}, k)};
        }
        write.commit(Rank{last});
      }
      for (std::size_t micro = 0; micro < c.training.micro_batches; ++micro) {
        const zerospan_test::Position at{me, step, micro};
        result.losses.push_back(std::bit_cast<std::uint64_t>(model.forward(zerospan_test::full_route(), at)));
        model.backward(zerospan_test::full_route(), at);
      }
      result.norms.push_back(engine.step().gradient_norm);
    }
    result.hash = zerospan_test::hash_masters(engine);
    return result;
  }));
}

template <zerospan::Element E>
zerospan_test::TrainingResult train_replicated_with_writes(const zerospan_test::TrainingOptions& options) {
  zerospan_test::ReplicatedTraining<E> training{options};
  for (std::int64_t step = 0; step < 3; ++step) {
    for (const std::size_t layer : written_layers) {
      std::vector<E> values(training.weights(layer).begin(), training.weights(layer).end());
      for (std::size_t k = 0; k < values.size(); ++k) {
        values[k] = E{static_cast<float>(values[k]) + zerospan_test::noise(layer, {0, step, 9}, k)};
      }
      training.assign(layer, values);
    }
    training.step(zerospan_test::full_route());
  }
  return training.result();
}

TEST_CASE_TEMPLATE("a committed write gives every rank the source's values", E, float, zerospan::bfloat16,
                   zerospan::float16) {
  using enum Place;
  zerospan_test::Sample sample{5};
  constexpr std::array placements{std::tuple{0, device, host, host}, std::tuple{1, device, device, nvme},
                                  std::tuple{2, device, nvme, nvme}, std::tuple{3, device, device, device},
                                  std::tuple{3, host, host, host},   std::tuple{3, nvme, nvme, nvme}};
  for (const auto& [stage, parameters, gradients, optimizer] : placements) {
    for (const int ranks : {1, 3}) {
      if (!sample.takes()) continue;
      zerospan_test::Configuration c;
      c.stage = stage;
      c.parameters = parameters;
      c.gradients = gradients;
      c.optimizer = optimizer;
      c.type = zerospan::ElementTraits<E>::type;
      c.training.ranks = ranks;
      c.training.micro_batches = 2;
      if (ranks == 3) c.persistence_threshold = 0_KiB;
      CAPTURE(c.describe());
      CHECK(train_with_writes<E>(c) == train_replicated_with_writes<E>(c.training));
    }
  }
}

}  // namespace
