#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/optimizer/sgd.hpp>
#include <zerospan/zerospan.hpp>

#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::DynamicLossScale;
using zerospan::EngineOptions;
using zerospan::float16;
using zerospan::LossScale;
using zerospan::ThreadCommunicator;
using zerospan_test::Array;
using zerospan_test::Memory;
using zerospan_test::Place;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("without a rule the scale is 1 and stays there") {
  LossScale scale{std::nullopt};
  for (int i = 0; i < 5000; ++i) scale.advance(i % 3 != 0);
  CHECK(scale.value() == 1);
}

TEST_CASE("the scale backs off at once, and grows after so many good steps in a row") {
  LossScale scale{DynamicLossScale{
      .initial = 8, .growth_factor = 4, .backoff_factor = 0.5F, .growth_interval = 3, .minimum = 2, .maximum = 64}};
  const auto after = [&](std::initializer_list<bool> steps) {
    for (const bool finite : steps) scale.advance(finite);
    return scale.value();
  };
  CHECK(after({}) == 8);
  CHECK(after({true, true}) == 8);
  CHECK(after({true}) == 32);
  CHECK(after({true, true, false}) == 16);  // the row begins anew
  CHECK(after({true, true}) == 16);
  CHECK(after({true}) == 64);
  CHECK(after({true, true, true}) == 64);                                // the maximum
  CHECK(after({false, false, false, false, false, false, false}) == 2);  // the minimum
  CHECK(after({true, true, true}) == 8);
}

TEST_CASE("settings without sense are refused by name") {
  const auto refused = [](const DynamicLossScale& rule, const std::string& name) {
    try {
      rule.validate();
    } catch (const zerospan::ConfigurationError& error) {
      return std::string{error.what()}.starts_with("loss scale: " + name + " is ");
    }
    return false;
  };
  CHECK_NOTHROW(DynamicLossScale{}.validate());
  CHECK_NOTHROW(DynamicLossScale{.initial = 1, .growth_factor = 1, .backoff_factor = 1}.validate());
  CHECK_NOTHROW(DynamicLossScale{.initial = 0x1p-3F, .minimum = 0x1p-64F, .maximum = 0x1p64F}.validate());
  for (const float value : {0.0F, -2.0F, 3.0F, 1000.0F, 0x1p65F, 0x1p-65F, infinity, nan}) {
    CHECK(refused({.initial = value}, "initial"));
    CHECK(refused({.growth_factor = value}, "growth_factor"));
    CHECK(refused({.backoff_factor = value}, "backoff_factor"));
    CHECK(refused({.minimum = value}, "minimum"));
    CHECK(refused({.maximum = value}, "maximum"));
  }
  CHECK(refused({.initial = 0x1p25F}, "initial"));
  CHECK(refused({.initial = 0.5F}, "initial"));
  CHECK(refused({.growth_factor = 0.5F}, "growth_factor"));
  CHECK(refused({.backoff_factor = 2}, "backoff_factor"));
  CHECK(refused({.growth_interval = 0}, "growth_interval"));
}

/// The uses of the model: partitioned, so small that it is replicated, and a second use of the first.
enum class Use : std::uint8_t { large, small, tied };

/// A gradient's element that a rank spoils.
struct Poison {
  Use use = Use::large;
  float value = nan;
  int rank = 1;
  std::size_t micro_batch = 0;
};

struct Setup {
  int stage = 3;
  std::size_t micro_batches = 1;
  float max_gradient_norm = infinity;
  std::optional<DynamicLossScale> loss_scale{};
  int ranks = 2;
};

struct Seen {
  std::uint64_t hash = 0;
  std::vector<double> norms;  // of the steps that were not skipped
  bool operator==(const Seen&) const = default;
};

template <zerospan::Element E>
class Training {
 public:
  Training(zerospan_test::AnyEngine& engine, int rank, std::size_t micro_batches)
      : engine_{engine},
        rank_{rank},
        micro_batches_{micro_batches},
        large_{engine, "large", {5000}, zerospan::init::normal(1)},
        small_{engine, "small", {100}, zerospan::init::normal(1)},
        tied_{large_.tie("tied")} {}

  zerospan::StepOutcome step(std::int64_t number, const std::optional<Poison>& poison = std::nullopt) {
    for (std::size_t micro = 0; micro < micro_batches_; ++micro) {
      commit(large_, Use::large, {rank_, number, micro}, poison);
      commit(small_, Use::small, {rank_, number, micro}, poison);
      commit(tied_, Use::tied, {rank_, number, micro}, poison);
    }
    return engine_.step();
  }

 private:
  using Parameter = zerospan::PartitionedParameter<Array<E>>;

  void commit(const Parameter& parameter, Use use, const zerospan_test::Position& at,
              const std::optional<Poison>& poison) {
    const auto full = parameter.gather(calling_thread);
    auto gradient = parameter.gradient(calling_thread);
    for (std::size_t k = 0; k < gradient->size; ++k) {
      const float noise = zerospan_test::noise(static_cast<std::size_t>(use), at, k);
      const float value = zerospan_test::gradient_of(static_cast<float>(full->data[k]), noise);
      gradient->data[k] = E{value * engine_.loss_scale()};
    }
    const bool spoils =
        poison && poison->use == use && poison->rank == at.rank && poison->micro_batch == at.micro_batch;
    if (spoils) gradient->data[gradient->size - 1] = E{poison->value};
    gradient.commit();
  }

  zerospan_test::AnyEngine& engine_;
  int rank_;
  std::size_t micro_batches_;
  Parameter large_;
  Parameter small_;
  Parameter tied_;
};

/// Calls `f(training, engine)` on every rank. @return what each rank's call returns.
template <zerospan::Element E, class F>
auto on_each_rank(const Setup& setup, F f) {
  return zerospan::run_ranks(setup.ranks, [&](ThreadCommunicator communicator) {
    zerospan::ThreadedIoEngine io;
    Memory<zerospan::ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
    const Place disk = setup.stage >= 2 ? Place::nvme : Place::host;
    zerospan_test::AnyEngine engine{setup.stage,
                                    communicator,
                                    memory.device,
                                    memory.placement(setup.stage == 3 ? disk : Place::device, disk, Place::nvme),
                                    zerospan::AdamW{.learning_rate = 0.03F},
                                    EngineOptions{.micro_batches = setup.micro_batches,
                                                  .max_gradient_norm = setup.max_gradient_norm,
                                                  .loss_scale = setup.loss_scale,
                                                  .persistence_threshold = 1_KiB}};
    Training<E> training{engine, communicator.rank().value, setup.micro_batches};
    return f(training, engine);
  });
}

/// Four steps, and between the second and the third one that is spoiled and has to be skipped, if there is one.
template <zerospan::Element E>
Seen train(const Setup& setup, const std::optional<Poison>& poison = std::nullopt) {
  const auto ranks = on_each_rank<E>(setup, [&](auto& training, auto& engine) {
    Seen seen;
    for (std::int64_t number = 0; number < 4; ++number) {
      if (number == 2 && poison) {
        const std::uint64_t before = zerospan_test::hash_masters(engine);
        const bool skipped = training.step(99, poison).skipped;
        if (!skipped || zerospan_test::hash_masters(engine) != before) return Seen{};
      }
      const zerospan::StepOutcome outcome = training.step(number);
      if (outcome.skipped) return Seen{};
      seen.norms.push_back(outcome.gradient_norm);
    }
    seen.hash = zerospan_test::hash_masters(engine);
    return seen;
  });
  for (const Seen& seen : ranks) CHECK(seen == ranks[0]);
  return ranks[0];
}

TEST_CASE_TEMPLATE(
    "a gradient that is infinite or no number, of any use, on one rank, in one micro-batch, is a step that "
    "never was",
    E, float, bfloat16, float16) {
  zerospan_test::Sample sample{3};
  for (const int stage : {0, 1, 2, 3}) {
    for (const std::size_t micro_batches : {1U, 3U}) {
      if (!sample.takes()) continue;
      const Setup setup{.stage = stage, .micro_batches = micro_batches};
      const Seen expected = train<E>(setup);
      REQUIRE(expected.norms.size() == 4);
      constexpr std::array values{infinity, -infinity, nan};
      for (const Use use : {Use::large, Use::small, Use::tied}) {
        const auto turn = static_cast<std::size_t>(stage) + static_cast<std::size_t>(use);  // each value meets each use
        const Poison poison{use, values[turn % 3], static_cast<int>(turn % 2), micro_batches - 1};
        CAPTURE(stage);
        CAPTURE(micro_batches);
        CAPTURE(static_cast<int>(use));
        CAPTURE(poison.value);
        CHECK(train<E>(setup, poison) == expected);
      }
    }
  }
}

TEST_CASE("finite gradients whose sum is too large for float16 are an overflow") {
  // With one micro-batch the sum over ranks, and that over tied uses, keeps the gradient's type.
  const auto skips = [](const Setup& setup, Use use, float value) {
    const auto outcomes = on_each_rank<float16>(
        setup, [&](auto& training, auto&) { return training.step(0, Poison{.use = use, .value = value, .rank = 0}); });
    return outcomes.front().skipped;
  };
  for (const int stage : {0, 3}) {
    const Setup one_rank{.stage = stage, .ranks = 1};
    CHECK_FALSE(skips(one_rank, Use::small, 65504));
    CHECK(skips(one_rank, Use::small, 65520));
    CHECK(skips({.stage = stage, .loss_scale = DynamicLossScale{.initial = 32768}}, Use::small, 0));
    CHECK_FALSE(skips({.stage = stage, .loss_scale = DynamicLossScale{.initial = 4096}}, Use::small, 0));
    // Whichever sign the other use's gradient has there, one of the sums is too large.
    const Setup scaled{.stage = stage, .loss_scale = DynamicLossScale{.initial = 4096}, .ranks = 1};
    CHECK(skips(scaled, Use::tied, 65504) != skips(scaled, Use::tied, -65504));
  }
}

TEST_CASE("scales that are powers of two change no bit") {
  zerospan_test::Sample sample{3};
  for (const int stage : {0, 3}) {
    for (const std::size_t micro_batches : {1U, 3U}) {
      for (const float norm : {infinity, 1.0F}) {
        if (!sample.takes()) continue;
        Setup setup{.stage = stage, .micro_batches = micro_batches, .max_gradient_norm = norm, .loss_scale = {}};
        const Seen expected = train<float>(setup);
        for (const float scale : {1.0F, 1024.0F, 0x1p24F}) {
          setup.loss_scale = DynamicLossScale{.initial = scale};
          CHECK(train<float>(setup) == expected);
          setup.loss_scale->growth_interval = 1;  // it moves, and backs off from a step that is skipped
          CHECK(train<float>(setup, Poison{}) == expected);
        }
      }
    }
  }
}

TEST_CASE("a scale that is too large for float16 backs off until training begins") {
  const Setup setup{.loss_scale = DynamicLossScale{.growth_interval = 4}};
  on_each_rank<float16>(setup, [&](auto& training, auto& engine) {
    float scale = 65536;
    std::int64_t skips = 0;
    bool ok = engine.loss_scale() == scale;
    const std::uint64_t before = zerospan_test::hash_masters(engine);
    for (std::int64_t number = 1;; ++number) {
      const zerospan::StepOutcome outcome = training.step(0);
      ok = ok && outcome.step == number && outcome.loss_scale == scale;
      if (!outcome.skipped) {
        ok = ok && outcome.skipped_in_a_row == 0 && outcome.next_loss_scale == scale && outcome.gradient_norm > 0;
        break;
      }
      scale /= 2;
      ok = ok && outcome.skipped_in_a_row == ++skips && outcome.next_loss_scale == scale &&
           engine.loss_scale() == scale && zerospan_test::hash_masters(engine) == before;
    }
    ok = ok && skips >= 2 && skips < 5 && zerospan_test::hash_masters(engine) != before;
    for (int i = 0; i < 2; ++i) ok = ok && training.step(1).next_loss_scale == scale;
    ok = ok && training.step(1).next_loss_scale == 2 * scale;  // the fourth good step
    CHECK(ok);
  });
}

TEST_CASE("an overflow at the minimum is a skipped step and no more") {
  const Setup setup{.loss_scale = DynamicLossScale{.initial = 2}};
  on_each_rank<bfloat16>(setup, [&](auto& training, auto& engine) {
    bool ok = true;
    for (std::int64_t i = 1; i <= 5; ++i) {
      const zerospan::StepOutcome outcome = training.step(0, Poison{});
      ok = ok && outcome.skipped && outcome.skipped_in_a_row == i && outcome.next_loss_scale == 1;
    }
    const zerospan::StepOutcome outcome = training.step(0);
    CHECK((ok && !outcome.skipped && outcome.skipped_in_a_row == 0 && outcome.step == 6 && engine.loss_scale() == 1));
  });
}

TEST_CASE("without loss scaling the outcome says 1") {
  on_each_rank<float>({}, [](auto& training, auto& engine) {
    const zerospan::StepOutcome outcome = training.step(0);
    CHECK((outcome.loss_scale == 1 && outcome.next_loss_scale == 1 && engine.loss_scale() == 1));
  });
}

TEST_CASE("an engine refuses a rule without sense") {
  CHECK_THROWS_WITH_AS(on_each_rank<float>({.loss_scale = DynamicLossScale{.initial = 1000}, .ranks = 1},
                                           [](auto&, auto&) { return 0; }),
                       doctest::Contains("loss scale: initial is 1000"), zerospan::ConfigurationError);
}

TEST_CASE("an optimizer whose states change their size is refused before anything is placed or updated") {
  zerospan::ThreadedIoEngine io;
  Memory<zerospan::ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, memory.device,
                              memory.placement(Place::host, Place::host, Place::host), zerospan::Sgd{}};
  using Parameter = zerospan::PartitionedParameter<Array<float>>;
  const auto refused = [&](auto call) {
    engine.optimizer().momentum = 0.9F;
    CHECK_THROWS_WITH_AS(call(), doctest::Contains("states have changed their size"), zerospan::ConfigurationError);
    engine.optimizer().momentum = 0;
  };
  refused([&] { const Parameter weight{engine, "weight", {5000}, zerospan::init::ones()}; });
  const Parameter weight{engine, "weight", {5000}, zerospan::init::ones()};
  refused([&] { static_cast<void>(weight.gather(calling_thread)); });
  static_cast<void>(weight.gather(calling_thread));
  refused([&] { engine.step(); });
  CHECK(engine.step().step == 1);
}

}  // namespace
