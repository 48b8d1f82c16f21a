#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/error.hpp>
#include <zerospan/optimizer/lion.hpp>

#include "support/shard_run.hpp"

namespace {

using zerospan::ElementType;
using zerospan::Lion;
using zerospan::ParameterGroup;
using zerospan_test::SubGroup;
using zerospan_test::stored_types;

/// Algorithm 2 of the paper, line by line, in double.
struct Reference {
  double p = 0;
  double m = 0;
  bool is_certain = true;  ///< No direction was so near to zero that rounding decides its sign.

  void update(const Lion& s, ParameterGroup group, double g) {
    const double rate = double{s.learning_rate} * double{group.learning_rate_factor};
    const double decay = double{s.weight_decay} * double{group.weight_decay_factor};
    const double c = double{s.beta1} * m + (1 - double{s.beta1}) * g;
    const double sign = c > 0 ? 1 : c < 0 ? -1 : 0;
    is_certain = is_certain && (std::fabs(c) > 1e-5 * std::fabs(g) || c == 0);
    p -= rate * (sign + decay * p);
    m = double{s.beta2} * m + (1 - double{s.beta2}) * g;
  }
};

TEST_CASE("updates follow the paper") {
  constexpr std::size_t n = 1037;
  constexpr float scale = 0.25F;
  const Lion lion{.learning_rate = 1e-2F, .weight_decay = 0.3F};
  const ParameterGroup group{.learning_rate_factor = 0.5F, .weight_decay_factor = 2.0F};
  for (const ElementType type : stored_types) {
    SubGroup shard{lion, n, type, ElementType::float32};
    shard.fill_master(1);
    std::vector<Reference> reference(n);
    for (std::size_t i = 0; i < n; ++i) reference[i].p = shard.master[i];
    double largest = 0;
    for (std::int64_t step = 1; step <= 50; ++step) {
      shard.fill_gradient(100 + static_cast<std::uint64_t>(step));
      lion.update(shard.run(0, n, step, scale, group));
      for (std::size_t i = 0; i < n; ++i) {
        const double g = double{scale} * double{shard.gradient_at(i)};
        largest = std::max(largest, std::fabs(g));
        reference[i].update(lion, group, g);
      }
    }
    std::size_t compared = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (!reference[i].is_certain) continue;
      CAPTURE(i);
      const double epsilon{std::numeric_limits<float>::epsilon()};
      REQUIRE(std::fabs(shard.master[i] - reference[i].p) < 50 * epsilon * std::max(1.0, std::fabs(reference[i].p)));
      REQUIRE(std::fabs(shard.state(0, i) - reference[i].m) < 50 * epsilon * largest);
      ++compared;
    }
    CHECK(compared > n * 9 / 10);
  }
}

TEST_CASE("three updates by hand") {
  const Lion lion{.learning_rate = 0.25F, .beta1 = 0.5F, .beta2 = 0.75F, .weight_decay = 0.5F};
  SubGroup shard{lion, 3, ElementType::float32, ElementType::float32};
  shard.master = {1, 1, 1};
  shard.master.resize(shard.capacity);
  const auto update = [&](std::int64_t step, std::array<float, 3> gradients) {
    std::memcpy(shard.gradient.data(), gradients.data(), sizeof gradients);
    lion.update(shard.run(0, 3, step, 1.0F, {}));
  };
  update(1, {8, -8, 0});  // directions 4, -4, 0; momenta 2, -2, 0
  CHECK(std::vector(shard.master.begin(), shard.master.begin() + 3) == std::vector{0.625F, 1.125F, 0.875F});
  update(2, {-1, 2, 0});  // directions 0.5, 0, 0; momenta 1.25, -1, 0
  CHECK(std::vector(shard.master.begin(), shard.master.begin() + 3) == std::vector{0.296875F, 0.984375F, 0.765625F});
  CHECK(shard.state(0, 0) == 1.25F);
  CHECK(shard.state(0, 1) == -1.0F);
  CHECK(shard.state(0, 2) == 0.0F);
  update(3, {-4, 1e-30F, 1e-30F});  // the direction has a length in its momentum alone
  CHECK(shard.master[0] == 0.296875F * 0.875F + 0.25F);
  CHECK(shard.master[1] == 0.984375F * 0.875F + 0.25F);
  CHECK(shard.master[2] == 0.765625F * 0.875F - 0.25F);
}

TEST_CASE("what holds of every optimizer") {
  zerospan_test::check_bodies_agree(Lion{.learning_rate = 3e-3F, .weight_decay = 0.1F});
  zerospan_test::check_cuts_do_not_matter(Lion{});
  zerospan_test::check_parameter_is_rounded_master(Lion{});
  zerospan_test::check_neighbours_are_left_alone(Lion{.learning_rate = 1});
}

TEST_CASE("a gradient that is not a number shows, and stays where it is") {
  for (const auto set : zerospan_test::instruction_sets()) {
    SubGroup shard{Lion{}, 64, ElementType::float32, ElementType::float32};
    shard.fill_gradient(17);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(shard.gradient.data() + 4 * 21, &nan, sizeof nan);
    Lion{}.update(shard.run(0, 64, 1, 1.0F, {}), set);
    for (std::size_t i = 0; i < 64; ++i) CHECK(std::isnan(shard.master[i]) == (i == 21));
  }
}

TEST_CASE("states are one float an element") { CHECK(Lion{}.state_bytes(1024) == 4096); }

TEST_CASE("settings without sense are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto refused = [](const Lion& lion, const char* name) { return zerospan_test::refuses(lion, name); };
  CHECK_NOTHROW(Lion{}.validate());
  for (const float value : {-1e-3F, nan, infinity}) {
    CHECK(refused({.learning_rate = value}, "learning_rate"));
    CHECK(refused({.weight_decay = value}, "weight_decay"));
  }
  for (const float value : {-0.1F, 1.0F, nan}) {
    CHECK(refused({.beta1 = value}, "beta1"));
    CHECK(refused({.beta2 = value}, "beta2"));
  }
}

TEST_CASE("an update before the first is refused") {
  SubGroup shard{Lion{}, 8, ElementType::float32, ElementType::float32};
  CHECK_THROWS_WITH_AS(Lion{}.update(shard.run(0, 8, 0, 1.0F, {})), "Lion: update 0; the first is 1",
                       zerospan::ConfigurationError);
}

}  // namespace
