#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <latch>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/nccl_error.hpp>
#include <zerospan/zerospan.hpp>

#include "support/fake_nccl_run.hpp"
#include "support/rank_end.hpp"
#include "support/training_matrix.hpp"

namespace {

using zerospan::NcclOptions;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::contains;
using zerospan_test::FakeCompute;
using zerospan_test::FakeGpuError;
using zerospan_test::FakeNcclCommunicator;
using zerospan_test::FakeNode;
using zerospan_test::patient;
using zerospan_test::Place;
using zerospan_test::train_on_fake_nccl;
using zerospan_test::TrainingResult;

using End = zerospan_test::RankEnd;
using BoardlessExchange = zerospan::CommunicatorExchange<ThreadCommunicator>;

Configuration three_ranks() {
  Configuration c;
  c.parameters = c.optimizer = Place::nvme;
  c.gradients = Place::host;
  c.training.ranks = 3;
  c.training.micro_batches = 2;
  c.training.max_gradient_norm = 1.0F;
  c.persistence_threshold = zerospan::Bytes{0};
  return c;
}

/// What one rank's engine and model are, for scenarios in which something goes wrong. Fetches on demand, so that it is
/// known which collective comes next.
struct Rig {
  Rig(FakeNode& node, FakeNcclCommunicator& communicator)
      : compute{node.gpu},
        engine{zerospan::Stage3{},
               communicator,
               node.memory.device,
               node.memory.placement(Place::nvme, Place::host, Place::nvme),
               zerospan::AdamW{},
               zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .prefetch = zerospan::Bytes{0}}} {
    for (const char* const name : {"w0", "w1", "w2"}) {
      weights.emplace_back(engine, name, zerospan::Shape{5000}, zerospan::init::normal(1.0F));
    }
  }

  void forward() const {
    for (const auto& weight : weights) static_cast<void>(weight.gather(compute.stream()));
    compute.finish();
  }

  /// Computes a gradient; all that was gathered for it has come when `before_commit()` is called.
  template <class F>
  void backward(std::size_t i, F before_commit) const {
    const auto full = weights[i].gather(compute.stream());
    auto gradient = weights[i].gradient(compute.stream());
    compute.run([from = compute.read(full->data, full->size), to = compute.write(gradient->data, gradient->size),
                 size = full->size] { std::copy_n(from, size, to); });
    compute.finish();
    before_commit();
    gradient.commit();
  }

  void train_step() {
    forward();
    for (std::size_t i = weights.size(); i-- > 0;) backward(i, [] {});
    engine.step();
  }
  /// Until something goes wrong.
  void train_on() {
    while (true) train_step();
  }

  FakeCompute compute;
  zerospan::ZeroEngine<zerospan::Stage3, FakeNcclCommunicator, zerospan_test::FakeDevice, zerospan::AdamW> engine;
  std::vector<zerospan::PartitionedParameter<Array<float>>> weights;
};

template <class F>
End end_of(F f) {
  return zerospan_test::rank_end_of<zerospan::NcclError, FakeGpuError>(f);
}

/// Three ranks' nodes, on which engines come and go.
class Cluster {
 public:
  /// Runs `f(communicator, node, world)` as each rank, and checks that nothing but the nodes is left.
  template <class Exchange = zerospan::ThreadExchange, class F>
  std::vector<End> run(F f, const NcclOptions& options = patient) {
    const auto world = std::make_shared<fake::World>();
    const auto ends = zerospan::run_ranks(size, [&](ThreadCommunicator threads) {
      FakeNode& node = nodes_[static_cast<std::size_t>(threads.rank().value)];
      return end_of([&] {
        FakeNcclCommunicator communicator{Exchange{std::move(threads)}, options, node.api(world)};
        f(communicator, node, *world);
      });
    });
    zerospan_test::check_left_nothing(*world);
    for (FakeNode& node : nodes_) {
      CHECK(node.memory.device.memory().used().count == 0);
      CHECK(node.memory.device.host_memory().used().count == 0);
    }
    return ends;
  }

  /// New engines over new communicators train there as if nothing had been.
  void check_trains() {
    const Configuration c = three_ranks();
    CHECK(train_on_fake_nccl(nodes_, c) == zerospan_test::train_replicated(c.training, c.type, c.steps));
  }

 private:
  static constexpr int size = 3;

  std::deque<FakeNode> nodes_{static_cast<std::size_t>(size)};
};

TEST_CASE("over NCCL, with sums in rank order, every pair of choices trains to the bits of the oracle") {
  zerospan_test::compare_all(zerospan_test::pairwise_matrix(20251125),
                             [](const Configuration& c) { return train_on_fake_nccl(c); });
}

TEST_CASE("a small scratch memory makes no difference") {
  const Configuration c = three_ranks();
  NcclOptions options = patient;
  options.scratch = zerospan::Bytes{4096};
  CHECK(train_on_fake_nccl(c, options) == zerospan_test::train_replicated(c.training, c.type, c.steps));
}

/// NCCL sums in an order of its own, here the reverse one: a rounding of 2^-24 a sum, which AdamW may turn into a step
/// of the learning rate's size where a gradient is next to nothing.
TEST_CASE("with NCCL's own sums a run is repeatable, and close to the oracle") {
  Configuration c = three_ranks();
  c.training.max_gradient_norm = std::numeric_limits<float>::infinity();
  NcclOptions options = patient;
  options.reductions = zerospan::NcclReductions::nccl;
  const TrainingResult expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
  const TrainingResult first = train_on_fake_nccl(c, options);
  CHECK(train_on_fake_nccl(c, options) == first);
  CHECK(first.hash != expected.hash);
  REQUIRE(first.norms.size() == expected.norms.size());
  for (std::size_t i = 0; i < first.norms.size(); ++i) {
    CHECK(std::abs(first.norms[i] - expected.norms[i]) <= 1e-6 * expected.norms[i]);
  }
  REQUIRE(first.losses.size() == expected.losses.size());
  for (std::size_t i = 0; i < first.losses.size(); ++i) {
    CHECK(std::abs(std::bit_cast<double>(first.losses[i]) - std::bit_cast<double>(expected.losses[i])) <= 1e-3);
  }
}

TEST_CASE("a rank that stays away in backward is named by all, with the gradient that it owes") {
  Cluster cluster;
  std::latch others_have_failed{2};
  NcclOptions options = patient;
  options.timeout = std::chrono::seconds{3};
  const auto ends = cluster.run(
      [&](FakeNcclCommunicator& communicator, FakeNode& node, auto&) {
        if (communicator.rank() != Rank{1}) {
          const End end = end_of([&] {
            Rig rig{node, communicator};
            rig.train_on();
          });
          others_have_failed.count_down();
          // What follows throws the same, as does what was tried before.
          communicator.verify();
        }
        Rig rig{node, communicator};
        rig.train_step();
        rig.forward();
        rig.backward(2, [&] { others_have_failed.wait(); });
        rig.train_on();
      },
      options);
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::timeout);
    CHECK(end.culprit == 1);
    CHECK(contains(end.text, "rank 1 did not arrive at reduce-scatter 'w2'"));
    CHECK(contains(end.text, "within 3000 ms"));
  }
  cluster.check_trains();
}

TEST_CASE("a rank whose engine ends in backward is named by the others, with the gradient that it owes") {
  Cluster cluster;
  const auto ends = cluster.run([](FakeNcclCommunicator& communicator, FakeNode& node, auto&) {
    Rig rig{node, communicator};
    rig.train_step();
    if (communicator.rank() != Rank{1}) return rig.train_on();
    rig.forward();
    static_cast<void>(rig.weights[2].gather(rig.compute.stream()));
  });
  CHECK(ends[1].kind == End::Kind::well);
  for (const std::size_t rank : {0U, 2U}) {
    CAPTURE(ends[rank].text);
    CHECK(ends[rank].kind == End::Kind::failed);
    CHECK(ends[rank].culprit == 1);
    CHECK(contains(ends[rank].text, "rank 1 returned while rank "));
    CHECK(contains(ends[rank].text, "waits in reduce-scatter 'w2'"));
  }
  cluster.check_trains();
}

TEST_CASE("a rank that throws in backward fails the others") {
  Cluster cluster;
  const auto ends = cluster.run([](FakeNcclCommunicator& communicator, FakeNode& node, auto&) {
    Rig rig{node, communicator};
    rig.train_step();
    if (communicator.rank() != Rank{1}) return rig.train_on();
    rig.forward();
    rig.backward(2, [] { throw std::domain_error{"my own reasons"}; });
  });
  CHECK(ends[1].text == "my own reasons");
  for (const std::size_t rank : {0U, 2U}) {
    CAPTURE(ends[rank].text);
    CHECK(ends[rank].kind == End::Kind::failed);
    CHECK(ends[rank].culprit == 1);
    CHECK(ends[rank].text == "rank 1 failed (its engine was destroyed by an exception)");
  }
  cluster.check_trains();
}

TEST_CASE("an error that NCCL finds in a collective is the rank's own, and its failure to the others") {
  Cluster cluster;
  std::latch error_is_known{1};
  const auto ends = cluster.run([&](FakeNcclCommunicator& communicator, FakeNode& node, fake::World& world) {
    Rig rig{node, communicator};
    rig.train_step();
    rig.forward();
    rig.backward(2, [&] {
      if (communicator.rank() == Rank{0}) error_is_known.wait();
    });
    if (communicator.rank() == Rank{1}) {
      std::promise<void> told;
      communicator.on_failure([&](const std::exception_ptr&) { told.set_value(); });
      while (!world.set_error_where_waiting(Rank{1}, zerospan::detail::NcclResult::internal_error))
        std::this_thread::yield();
      told.get_future().wait();
      communicator.on_failure({});
      error_is_known.count_down();
    }
    rig.train_on();
  });
  CAPTURE(ends[1].text);
  CHECK(ends[1].kind == End::Kind::device);
  CHECK(contains(ends[1].text, "reduce-scatter 'w2'"));
  CHECK(contains(ends[1].text, "on rank 1: a fake error (3)"));
  for (const std::size_t rank : {0U, 2U}) {
    CAPTURE(ends[rank].text);
    CHECK(ends[rank].kind == End::Kind::failed);
    CHECK(ends[rank].culprit == 1);
    CHECK(ends[rank].text == "rank 1 failed (" + ends[1].text + ")");
  }
  cluster.check_trains();
}

TEST_CASE("an abort ends training on every rank, wherever it stands") {
  Cluster cluster;
  const auto ends = cluster.run([](FakeNcclCommunicator& communicator, FakeNode& node, auto&) {
    Rig rig{node, communicator};
    rig.train_step();
    rig.forward();
    rig.backward(2, [&] {
      if (communicator.rank() == Rank{2}) communicator.abort("enough");
    });
    rig.train_on();
  });
  for (const End& end : ends) {
    CHECK(end.kind == End::Kind::failed);
    CHECK(end.culprit == 2);
    CHECK(end.text == "rank 2 failed (enough)");
  }
  cluster.check_trains();
}

TEST_CASE_TEMPLATE("ranks that reduce different gradients of one size find out at the step", Exchange,
                   zerospan::ThreadExchange, BoardlessExchange) {
  Cluster cluster;
  const auto ends = cluster.run<Exchange>([](FakeNcclCommunicator& communicator, FakeNode& node, auto&) {
    Rig rig{node, communicator};
    rig.forward();
    rig.backward(communicator.rank() == Rank{2} ? 1 : 0, [] {});
    rig.engine.step();
    rig.train_on();
  });
  for (const End& end : ends) {
    CAPTURE(end.text);
    CHECK(end.kind == End::Kind::divergence);
    CHECK(end.culprit == 2);
    CHECK(contains(end.text, "rank 0: "));
    if (std::is_same_v<Exchange, zerospan::ThreadExchange>) continue;  // the board may tell before
    CHECK(contains(end.text, "rank 1: reduce-scatter 'w0'"));
    CHECK(contains(end.text, "rank 2: reduce-scatter 'w1'"));
  }
  cluster.check_trains();
}

TEST_CASE("whichever call of CUDA fails on a rank, all ranks say so and end") {
  Configuration c = three_ranks();
  c.steps = 1;
  const TrainingResult expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
  std::size_t failures = 0;
  bool has_passed = false;
  for (std::uint64_t nth = 1; !has_passed; nth += 1 + nth / 4) {
    CAPTURE(nth);
    std::deque<FakeNode> nodes{3};
    nodes[1].gpu->fail_from(nth);
    const auto world = std::make_shared<fake::World>();
    std::vector<TrainingResult> results(3);
    const auto ends = zerospan::run_ranks(3, [&](ThreadCommunicator threads) {
      const auto rank = static_cast<std::size_t>(threads.rank().value);
      return end_of([&] { results[rank] = train_on_fake_nccl(nodes[rank], std::move(threads), world, c); });
    });
    zerospan_test::check_left_nothing(*world);
    if (ends[1].kind == End::Kind::well) {
      has_passed = true;
      for (const End& end : ends) CHECK(end.kind == End::Kind::well);
      CHECK(zerospan_test::join_results(results) == expected);
      continue;
    }
    ++failures;
    CAPTURE(ends[1].text);
    CHECK(ends[1].kind == End::Kind::device);
    for (const std::size_t rank : {0U, 2U}) {
      CAPTURE(ends[rank].text);
      if (ends[rank].kind == End::Kind::well) {  // it was done, and needed rank 1 no more
        CHECK(results[rank].hash == expected.hash);
        continue;
      }
      CHECK(ends[rank].kind == End::Kind::failed);
      CHECK(ends[rank].culprit == 1);
    }
  }
  CHECK(failures > 20);
}

}  // namespace
