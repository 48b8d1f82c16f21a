#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/optimizer.hpp>

#include "support/shard_run.hpp"

namespace {

using zerospan::AdamW;
using zerospan::block_elements;
using zerospan::ElementType;
using zerospan::InstructionSet;
using zerospan::ParameterGroup;
using zerospan::ShardUpdate;
using zerospan_test::check_same_bits;
using zerospan_test::instruction_sets;
using zerospan_test::SubGroup;
using zerospan_test::stored_types;

struct NoStates {
  void update(const ShardUpdate&) const {}
};
struct NotCopyable {
  NotCopyable() = default;
  NotCopyable(const NotCopyable&) = delete;
  std::size_t state_bytes(std::size_t) const { return 0; }
  void update(const ShardUpdate&) const {}
};
struct ChangesItself {
  std::size_t state_bytes(std::size_t) const { return 0; }
  void update(const ShardUpdate&) {}
};
static_assert(zerospan::Optimizer<AdamW>);
static_assert(!zerospan::Optimizer<NoStates>, "does not say how large its states are");
static_assert(!zerospan::Optimizer<NotCopyable>, "an update under way needs settings of its own");
static_assert(!zerospan::Optimizer<ChangesItself>, "an update must not change the optimizer");

/// torch.optim.AdamW, written down in double.
struct Reference {
  double p = 0;
  double m = 0;
  double v = 0;

  void update(const AdamW& settings, ParameterGroup group, double g, std::int64_t step) {
    const double rate = double{settings.learning_rate} * double{group.learning_rate_factor};
    const double decay = double{settings.weight_decay} * double{group.weight_decay_factor};
    const double beta1 = settings.beta1;
    const double beta2 = settings.beta2;
    p *= 1 - rate * decay;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(step));
    const double correction2 = 1 - std::pow(beta2, static_cast<double>(step));
    p -= (rate / correction1) * m / (std::sqrt(v) / std::sqrt(correction2) + double{settings.epsilon});
  }
};

TEST_CASE("updates follow the formula of PyTorch") {
  constexpr std::size_t n = 1037;
  constexpr float scale = 0.25F;
  const AdamW adamw{.learning_rate = 1e-2F, .beta2 = 0.95F, .weight_decay = 0.1F};
  const ParameterGroup group{.learning_rate_factor = 0.5F, .weight_decay_factor = 2.0F};
  for (const ElementType type : stored_types) {
    SubGroup shard{AdamW{}, n, type, ElementType::float32};
    shard.fill_master(1);
    std::vector<Reference> reference(n);
    for (std::size_t i = 0; i < n; ++i) reference[i].p = shard.master[i];
    for (std::int64_t step = 1; step <= 50; ++step) {
      shard.fill_gradient(100 + static_cast<std::uint64_t>(step));
      adamw.update(shard.run(0, n, step, scale, group));
      for (std::size_t i = 0; i < n; ++i) {
        reference[i].update(adamw, group, double{scale} * double{shard.gradient_at(i)}, step);
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      CAPTURE(i);
      const double rounding =
          50 * double{std::numeric_limits<float>::epsilon()} * std::max(1.0, std::fabs(reference[i].p));
      REQUIRE(std::fabs(shard.master[i] - reference[i].p) < rounding);
      REQUIRE(std::fabs(shard.state(0, i) - reference[i].m) <= 1e-5 * std::sqrt(reference[i].v));
      REQUIRE(shard.state(1, i) == doctest::Approx(reference[i].v).epsilon(1e-5));
    }
  }
}

TEST_CASE("every body gives the same bits, for all types and tails") {
  zerospan_test::check_bodies_agree(AdamW{.learning_rate = 3e-3F});
}

TEST_CASE("the cut into runs changes no bit") { zerospan_test::check_cuts_do_not_matter(AdamW{}); }

TEST_CASE("a run leaves its neighbours alone") { zerospan_test::check_neighbours_are_left_alone(AdamW{}); }

TEST_CASE("the written parameter is the master weight, rounded") {
  zerospan_test::check_parameter_is_rounded_master(AdamW{});
}

TEST_CASE("bias correction makes the first step as long as the learning rate") {
  const AdamW adamw{.learning_rate = 0.125F, .epsilon = 1e-20F, .weight_decay = 0.0F};
  SubGroup shard{AdamW{}, 64, ElementType::float32, ElementType::float32};
  std::vector<float> gradients(64);
  for (std::size_t i = 0; i < 64; ++i) gradients[i] = std::ldexp(i % 2 == 0 ? 1.0F : -1.0F, static_cast<int>(i) - 40);
  std::memcpy(shard.gradient.data(), gradients.data(), shard.gradient.size());
  adamw.update(shard.run(0, 64, 1, 1.0F, {}));
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK(shard.master[i] == doctest::Approx(i % 2 == 0 ? -0.125 : 0.125).epsilon(1e-6));
  }
}

TEST_CASE("weight decay is decoupled, and its factor may switch it off") {
  const AdamW adamw{.learning_rate = 0.5F, .weight_decay = 0.25F};
  SubGroup decayed{AdamW{}, 100, ElementType::bfloat16, ElementType::float32};
  decayed.fill_master(10);
  SubGroup kept = decayed;
  const std::vector<float> before = decayed.master;
  adamw.update(decayed.run(0, 100, 1, 1.0F, {}));
  adamw.update(kept.run(0, 100, 1, 1.0F, {.weight_decay_factor = 0.0F}));
  for (std::size_t i = 0; i < 100; ++i) {
    CHECK(decayed.master[i] == before[i] * 0.875F);  // without gradient nothing else happens
    CHECK(kept.master[i] == before[i]);
  }
  CHECK(std::ranges::all_of(decayed.states, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("a learning-rate factor of zero moves the moments alone") {
  SubGroup shard{AdamW{}, 100, ElementType::float32, ElementType::float32};
  shard.fill_master(11);
  shard.fill_gradient(12);
  const std::vector<float> before = shard.master;
  AdamW{}.update(shard.run(0, 100, 1, 1.0F, {.learning_rate_factor = 0.0F}));
  CHECK(shard.master == before);
  CHECK(shard.state(0, 0) != 0);
}

TEST_CASE("a power-of-two gradient scale equals gradients scaled beforehand") {
  SubGroup scaled{AdamW{}, 500, ElementType::bfloat16, ElementType::bfloat16};
  scaled.fill_master(13);
  scaled.fill_gradient(14);
  SubGroup beforehand = scaled;
  for (std::size_t i = 0; i < 500; ++i) {
    const float value = scaled.gradient_at(i) * 0.25F;
    zerospan::from_float(&value, ElementType::bfloat16, beforehand.gradient.data() + 2 * i, 1);
  }
  AdamW{}.update(scaled.run(0, 500, 1, 0.25F, {}));
  AdamW{}.update(beforehand.run(0, 500, 1, 1.0F, {}));
  check_same_bits(scaled, beforehand);
}

TEST_CASE("it finds the minimum of a quadratic") {
  constexpr std::size_t n = 200;
  const AdamW adamw{.learning_rate = 0.02F, .beta2 = 0.99F, .weight_decay = 0.0F};
  SubGroup shard{AdamW{}, n, ElementType::float32, ElementType::float32};
  shard.fill_master(15);
  for (std::int64_t step = 1; step <= 2000; ++step) {
    AdamW now = adamw;
    now.learning_rate = adamw.learning_rate * (1.0F - static_cast<float>(step) / 2001.0F);
    for (std::size_t i = 0; i < n; ++i) {
      const float target = static_cast<float>(i) / 100.0F - 1.0F;
      const float slope = static_cast<float>(1 + i % 7) * (shard.master[i] - target);
      std::memcpy(shard.gradient.data() + 4 * i, &slope, sizeof slope);
    }
    now.update(shard.run(0, n, step, 1.0F, {}));
  }
  for (std::size_t i = 0; i < n; ++i) {
    CHECK(std::fabs(shard.master[i] - (static_cast<float>(i) / 100.0F - 1.0F)) < 1e-4F);
  }
}

TEST_CASE("a gradient that is not finite stays where it is") {
  for (const InstructionSet set : instruction_sets()) {
    SubGroup shard{AdamW{}, 64, ElementType::float32, ElementType::bfloat16};
    shard.fill_master(16);
    shard.fill_gradient(17);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(shard.gradient.data() + 4 * 21, &nan, sizeof nan);
    AdamW{}.update(shard.run(0, 64, 1, 1.0F, {}), set);
    for (std::size_t i = 0; i < 64; ++i) {
      float written = 0;
      zerospan::to_float(ElementType::bfloat16, shard.parameter.data() + 2 * i, &written, 1);
      CHECK(std::isnan(shard.master[i]) == (i == 21));
      CHECK(std::isnan(written) == (i == 21));
    }
  }
}

TEST_CASE("states are two floats an element") {
  CHECK(AdamW{}.state_bytes(0) == 0);
  CHECK(AdamW{}.state_bytes(block_elements) == 8 * block_elements);
}

TEST_CASE("settings without sense are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK_NOTHROW(AdamW{}.validate());
  CHECK_NOTHROW(AdamW{.learning_rate = 0.0F, .beta1 = 0.0F, .beta2 = 0.0F, .weight_decay = 0.0F}.validate());
  const auto refused = [](const AdamW& adamw, const char* name) { return zerospan_test::refuses(adamw, name); };
  for (const float value : {-1e-3F, nan, infinity}) {
    CHECK(refused({.learning_rate = value}, "learning_rate"));
    CHECK(refused({.weight_decay = value}, "weight_decay"));
  }
  for (const float value : {-0.1F, 1.0F, nan}) {
    CHECK(refused({.beta1 = value}, "beta1"));
    CHECK(refused({.beta2 = value}, "beta2"));
  }
  for (const float value : {-1e-8F, 0.0F, nan, infinity}) CHECK(refused({.epsilon = value}, "epsilon"));
}

TEST_CASE("an update before the first is refused") {
  SubGroup shard{AdamW{}, 8, ElementType::float32, ElementType::float32};
  CHECK_THROWS_WITH_AS(AdamW{}.update(shard.run(0, 8, 0, 1.0F, {})), "AdamW: update 0; the first is 1",
                       zerospan::ConfigurationError);
}

}  // namespace
