#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/error.hpp>
#include <zerospan/optimizer/sgd.hpp>

#include "support/shard_run.hpp"

namespace {

using zerospan::ElementType;
using zerospan::Momentum;
using zerospan::ParameterGroup;
using zerospan::Sgd;
using zerospan::WeightDecay;
using zerospan_test::SubGroup;
using zerospan_test::stored_types;

/// Every way to step.
constexpr std::array variants{
    Sgd{.learning_rate = 0.03F},
    Sgd{.learning_rate = 0.03F, .weight_decay = 0.1F},
    Sgd{.learning_rate = 0.03F, .weight_decay = 0.1F, .decay = WeightDecay::decoupled},
    Sgd{.learning_rate = 0.03F, .momentum = 0.9F},
    Sgd{.learning_rate = 0.03F, .momentum = 0.9F, .dampening = 0.25F, .weight_decay = 0.1F},
    Sgd{.learning_rate = 0.03F, .momentum = 0.9F, .weight_decay = 0.1F, .decay = WeightDecay::decoupled},
    Sgd{.learning_rate = 0.03F, .momentum = 0.9F, .kind = Momentum::nesterov, .weight_decay = 0.1F}};

/// torch.optim.SGD, line by line, in double; with decoupled decay, as in torch.optim.AdamW.
struct Reference {
  double p = 0;
  double b = 0;

  void update(const Sgd& s, ParameterGroup group, double g, std::int64_t step) {
    const double rate = double{s.learning_rate} * double{group.learning_rate_factor};
    const double decay = double{s.weight_decay} * double{group.weight_decay_factor};
    if (s.decay == WeightDecay::coupled) {
      g += decay * p;
    } else {
      p *= 1 - rate * decay;
    }
    if (s.momentum != 0) {
      b = step > 1 ? double{s.momentum} * b + (1 - double{s.dampening}) * g : g;
      g = s.kind == Momentum::nesterov ? g + double{s.momentum} * b : b;
    }
    p -= rate * g;
  }
};

TEST_CASE("updates follow the formula of PyTorch") {
  constexpr std::size_t n = 1037;
  constexpr float scale = 0.25F;
  const ParameterGroup group{.learning_rate_factor = 0.5F, .weight_decay_factor = 2.0F};
  for (const Sgd& sgd : variants) {
    for (const ElementType type : stored_types) {
      SubGroup shard{sgd, n, type, ElementType::float32};
      shard.fill_master(1);
      std::vector<Reference> reference(n);
      std::vector<double> largest(n, 1.0);  // of the gradients: rounding is relative to them
      for (std::size_t i = 0; i < n; ++i) reference[i].p = shard.master[i];
      for (std::int64_t step = 1; step <= 50; ++step) {
        shard.fill_gradient(100 + static_cast<std::uint64_t>(step));
        sgd.update(shard.run(0, n, step, scale, group));
        for (std::size_t i = 0; i < n; ++i) {
          const double g = double{scale} * double{shard.gradient_at(i)};
          reference[i].update(sgd, group, g, step);
          largest[i] = std::max({largest[i], std::fabs(g), std::fabs(reference[i].p), std::fabs(reference[i].b)});
        }
      }
      for (std::size_t i = 0; i < n; ++i) {
        CAPTURE(i);
        const double rounding = 50 * double{std::numeric_limits<float>::epsilon()} * largest[i];
        REQUIRE(std::fabs(shard.master[i] - reference[i].p) < rounding);
        if (sgd.momentum > 0) REQUIRE(std::fabs(shard.state(0, i) - reference[i].b) < rounding);
      }
    }
  }
}

/// Two updates of one weight that is 1 with the gradients 2 and -4. @return the weight after each.
std::array<float, 2> two_updates(const Sgd& sgd) {
  SubGroup shard{sgd, 1, ElementType::float32, ElementType::float32};
  shard.master[0] = 1;
  std::array<float, 2> weights{};
  for (std::int64_t step = 1; step <= 2; ++step) {
    const float gradient = step == 1 ? 2.0F : -4.0F;
    std::memcpy(shard.gradient.data(), &gradient, sizeof gradient);
    sgd.update(shard.run(0, 1, step, 1.0F, {}));
    weights[static_cast<std::size_t>(step - 1)] = shard.master[0];
  }
  return weights;
}

TEST_CASE("two updates by hand") {
  CHECK(two_updates({.learning_rate = 0.25F}) == std::array{0.5F, 1.5F});
  // b: 2, then 0.5 * 2 - 4 = -3
  CHECK(two_updates({.learning_rate = 0.25F, .momentum = 0.5F}) == std::array{0.5F, 1.25F});
  // b: 2 (not dampened), then 0.5 * 2 - 0.5 * 4 = -1
  CHECK(two_updates({.learning_rate = 0.25F, .momentum = 0.5F, .dampening = 0.5F}) == std::array{0.5F, 0.75F});
  // b as with momentum; steps along 2 + 0.5 * 2 = 3, then -4 - 0.5 * 3 = -5.5
  CHECK(two_updates({.learning_rate = 0.25F, .momentum = 0.5F, .kind = Momentum::nesterov}) ==
        std::array{0.25F, 1.625F});
  // g: 2 + 0.5 * 1 = 2.5, then -4 + 0.5 * 0.375 = -3.8125
  CHECK(two_updates({.learning_rate = 0.25F, .weight_decay = 0.5F}) == std::array{0.375F, 1.328125F});
  // p: 0.875 * 1 - 0.5 = 0.375, then 0.875 * 0.375 + 1 = 1.328125: without momentum the two decays are one
  CHECK(two_updates({.learning_rate = 0.25F, .weight_decay = 0.5F, .decay = WeightDecay::decoupled}) ==
        std::array{0.375F, 1.328125F});
  // b: 2.5, then 0.5 * 2.5 - 3.8125 = -2.5625
  CHECK(two_updates({.learning_rate = 0.25F, .momentum = 0.5F, .weight_decay = 0.5F}) == std::array{0.375F, 1.015625F});
  // b: 2, then -3; p: 0.375, then 0.875 * 0.375 + 0.75
  CHECK(
      two_updates({.learning_rate = 0.25F, .momentum = 0.5F, .weight_decay = 0.5F, .decay = WeightDecay::decoupled}) ==
      std::array{0.375F, 1.078125F});
}

TEST_CASE("what holds of every optimizer") {
  for (const Sgd& sgd : variants) {
    zerospan_test::check_bodies_agree(sgd);
    zerospan_test::check_cuts_do_not_matter(sgd);
    zerospan_test::check_parameter_is_rounded_master(sgd);
    // A step of at least a unit in the last place of the parameter's type.
    Sgd fast = sgd;
    fast.learning_rate = 1e6F;
    fast.weight_decay = 0;
    zerospan_test::check_neighbours_are_left_alone(fast);
  }
}

TEST_CASE("without momentum there are no states") {
  CHECK(Sgd{}.state_bytes(zerospan::block_elements) == 0);
  CHECK(Sgd{.momentum = 0.9F}.state_bytes(zerospan::block_elements) == 4 * zerospan::block_elements);
}

TEST_CASE("settings without sense are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto refused = [](const Sgd& sgd, const char* name) { return zerospan_test::refuses(sgd, name); };
  for (const Sgd& sgd : variants) CHECK_NOTHROW(sgd.validate());
  CHECK_NOTHROW(Sgd{.learning_rate = 0, .momentum = 0.5F, .dampening = 1}.validate());
  for (const float value : {-1e-3F, nan, infinity}) {
    CHECK(refused({.learning_rate = value}, "learning_rate"));
    CHECK(refused({.weight_decay = value}, "weight_decay"));
  }
  for (const float value : {-0.1F, 1.0F, nan}) CHECK(refused({.momentum = value}, "momentum"));
  for (const float value : {-0.1F, 1.1F, nan}) CHECK(refused({.dampening = value}, "dampening"));
  CHECK(refused({.kind = Momentum::nesterov}, "momentum"));
  CHECK(refused({.momentum = 0.5F, .dampening = 0.1F, .kind = Momentum::nesterov}, "dampening"));
}

TEST_CASE("an update before the first is refused") {
  SubGroup shard{Sgd{}, 8, ElementType::float32, ElementType::float32};
  CHECK_THROWS_WITH_AS(Sgd{}.update(shard.run(0, 8, 0, 1.0F, {})), "Sgd: update 0; the first is 1",
                       zerospan::ConfigurationError);
}

}  // namespace
