/// Training with quantized collectives comes close to training with exact ones.

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "support/regression.hpp"
#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::AnyCommunicator;
using zerospan::calling_thread;
using zerospan::HostDevice;
using zerospan::QuantizationOptions;
using zerospan::QuantizedCommunicator;
using zerospan::QuantizedType;
using zerospan::ThreadCommunicator;
using zerospan_test::Array;
using zerospan_test::regression_columns;
using zerospan_test::regression_rows;

const auto element_of = [](const auto& tensor, std::size_t i) -> auto& { return tensor.data[i]; };

/// A rank of an engine in which all parameters are partitioned, with the parameters of the regression.
template <zerospan::Element E>
class Trainer {
 public:
  Trainer(ThreadCommunicator threads, const QuantizationOptions& options)
      : rank_{threads.rank().value},
        ranks_{threads.size()},
        communicator_{QuantizedCommunicator{std::move(threads), device_, options}},
        engine_{
            zerospan::Stage3{},
            communicator_,
            device_,
            zerospan::Placement{.parameters = host_, .gradients = host_, .optimizer = host_},
            zerospan::AdamW{.learning_rate = 0.05F, .weight_decay = 0},
            zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .staging = zerospan::Bytes{1 << 20}}} {
  }

  /// @return The loss of each step, on this rank.
  std::vector<float> train(int steps) {
    std::vector<float> losses;
    for (int step = 0; step < steps; ++step) {
      losses.push_back(zerospan_test::learn<E>(element_of, weight, bias, step * ranks_ + rank_));
      engine_.step();
    }
    return losses;
  }

  std::vector<float> weights() const {
    const auto lease = weight.gather(calling_thread);
    std::vector<float> values;
    for (std::size_t i = 0; i < lease->size; ++i) values.push_back(static_cast<float>(lease->data[i]));
    return values;
  }

  zerospan::StepOutcome step() { return engine_.step(); }
  HostDevice& device() { return device_; }

 private:
  int rank_;
  int ranks_;
  HostDevice device_{{.device_budget = 4_MiB, .host_budget = 4_MiB}};
  zerospan::HostTier host_{device_};
  AnyCommunicator communicator_;
  zerospan::ZeroEngine<zerospan::Stage3, AnyCommunicator, HostDevice, zerospan::AdamW> engine_;

 public:
  const zerospan::PartitionedParameter<Array<E>> weight{
      engine_, "weight", {regression_rows, regression_columns}, zerospan::init::normal(1.0F)};
  const zerospan::PartitionedParameter<Array<E>> bias{engine_, "bias", {regression_rows}, zerospan::init::normal(1.0F)};
};

using Losses = std::vector<std::vector<float>>;

constexpr QuantizationOptions exact{};
constexpr QuantizationOptions as_published{
    .gather = QuantizedType::int8, .reduce = QuantizedType::int4, .scratch = 64_KiB};

template <zerospan::Element E>
Losses train(int ranks, const QuantizationOptions& options, int steps) {
  return zerospan::run_ranks(
      ranks, [&](ThreadCommunicator threads) { return Trainer<E>{std::move(threads), options}.train(steps); });
}

/// The mean over ranks and the last steps.
double final_loss(const Losses& losses) {
  constexpr std::size_t last = 12;
  double sum = 0;
  for (const auto& of_rank : losses) {
    for (std::size_t i = of_rank.size() - last; i < of_rank.size(); ++i) sum += double{of_rank[i]};
  }
  return sum / static_cast<double>(last * losses.size());
}

/// What every rank reads, from a `Trainer` that has made some steps.
template <zerospan::Element E>
std::vector<std::vector<float>> weights_after(int steps, const QuantizationOptions& options) {
  return zerospan::run_ranks(3, [&](ThreadCommunicator threads) {
    Trainer<E> trainer{std::move(threads), options};
    trainer.train(steps);
    return trainer.weights();
  });
}

TEST_CASE_TEMPLATE("weights in int8 and gradients in int4 learn as well as exact ones, within a seventh", E,
                   zerospan::bfloat16, float) {
  for (const int ranks : {2, 4}) {
    CAPTURE(ranks);
    const double plain = final_loss(train<E>(ranks, exact, 120));
    const double quantized = final_loss(train<E>(ranks, as_published, 120));
    CHECK(plain < 1.0);  // of about 600
    CHECK(quantized < 8.0 / 7 * plain);
    CHECK(quantized > plain * 7 / 8);
  }
}

TEST_CASE("every rank reads the same bits, which are near the exact ones") {
  const auto plain = weights_after<float>(0, exact);
  const auto quantized = weights_after<float>(0, as_published);
  CHECK(quantized[0] != plain[0]);
  for (const auto& of_rank : quantized) CHECK(of_rank == quantized[0]);
  std::size_t outside = 0;
  for (std::size_t i = 0; i < plain[0].size(); ++i) {
    constexpr float largest = 4;  // of some thousand normal numbers
    outside += std::abs(quantized[0][i] - plain[0][i]) <= 0.51F * largest / 127 ? 0U : 1U;
  }
  CHECK(outside == 0);
}

TEST_CASE("runs repeat to the bit, whatever the scratch memory") {
  QuantizationOptions tight = as_published;
  tight.scratch = 2_KiB;
  const auto first = weights_after<zerospan::bfloat16>(10, as_published);
  CHECK(weights_after<zerospan::bfloat16>(10, as_published) == first);
  CHECK(weights_after<zerospan::bfloat16>(10, tight) == first);
}

TEST_CASE("a write lease has the exact values: what is published unchanged does not change") {
  const auto written = [](const QuantizationOptions& options) {
    return zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
      Trainer<float> trainer{std::move(threads), options};
      trainer.train(3);
      const auto values = [&] {
        auto lease = trainer.weight.write(calling_thread);
        std::vector<float> all(lease->data, lease->data + lease->size);
        lease.commit();
        return all;
      };
      const std::vector<float> before = values();
      CHECK(values() == before);
      CHECK((options.gather ? trainer.weights() != before : trainer.weights() == before));
      return before;
    });
  };
  for (const auto& options : {exact, as_published}) {
    const auto values = written(options);
    CHECK(values[0] == values[1]);
  }
}

TEST_CASE("a gradient that is infinite on one rank is found, and every rank skips the step") {
  zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    const int rank = threads.rank().value;
    Trainer<zerospan::bfloat16> trainer{std::move(threads), as_published};
    const std::vector<float> before = trainer.weights();
    auto gradient = trainer.bias.gradient(calling_thread);
    for (std::size_t i = 0; i < gradient->size; ++i) gradient->data[i] = zerospan::bfloat16{1.0F};
    if (rank == 1) gradient->data[3] = zerospan::bfloat16{std::numeric_limits<float>::infinity()};
    gradient.commit();
    CHECK(trainer.step().skipped);
    CHECK(trainer.weights() == before);
  });
}

TEST_CASE("the engine's communicator has scratch memory of its own, within the device's budget") {
  zerospan::run_ranks(2, [&](ThreadCommunicator threads) {
    Trainer<float> trainer{std::move(threads), as_published};
    const auto used = trainer.device().memory().used();
    CHECK(used.count >= 2 * as_published.scratch.count);
  });
}

}  // namespace
