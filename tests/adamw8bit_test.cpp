#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>
#include <zerospan/optimizer/detail/moment_codes.hpp>
#include <zerospan/optimizer/state_array.hpp>

#include "support/shard_run.hpp"

namespace {

using zerospan::AdamW;
using zerospan::AdamW8bit;
using zerospan::block_elements;
using zerospan::ElementType;
using zerospan::scaled_elements;
using zerospan::detail::Dither;
using zerospan::detail::FirstMomentCode;
using zerospan::detail::SecondMomentCode;
using zerospan_test::instruction_sets;
using zerospan_test::SubGroup;

/// What a sub-group's states are.
struct Moments {
  explicit Moments(const SubGroup& group) : group_{group} {}

  std::uint8_t first_code(std::size_t i) const { return static_cast<std::uint8_t>(group_.states[i]); }
  int second_code(std::size_t i) const { return static_cast<std::uint8_t>(group_.states[group_.capacity + i]); }
  float first_scale(std::size_t i) const { return scale(i / scaled_elements); }
  float second_scale(std::size_t i) const { return scale((group_.capacity + i) / scaled_elements); }
  float first(std::size_t i) const { return FirstMomentCode::decode(first_code(i), first_scale(i)); }
  float second(std::size_t i) const { return SecondMomentCode::decode(second_code(i), second_scale(i)); }

 private:
  float scale(std::size_t block) const {
    float value = 0;
    std::memcpy(&value, &group_.states[2 * group_.capacity + block * sizeof value], sizeof value);
    return value;
  }

  const SubGroup& group_;
};

void set_gradients(SubGroup& group, const std::vector<float>& values) {
  REQUIRE(values.size() == group.n);
  std::memcpy(group.gradient.data(), values.data(), values.size() * sizeof(float));
}

constexpr std::uint32_t dithers = std::uint32_t{1} << FirstMomentCode::dropped_bits;

TEST_CASE("dither is spread evenly, over updates and over places") {
  constexpr std::uint32_t parts = 16;
  for (const bool over_updates : {true, false}) {
    std::array<int, parts> counts{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      const std::uint32_t dither = over_updates ? Dither::at(1000 + i, 7) : Dither::at(1000, i);
      REQUIRE(dither >= 8);
      REQUIRE(dither <= dithers - 8);
      ++counts[dither / (dithers / parts)];
    }
    for (const int count : counts) {
      CHECK(count >= 10);
      CHECK(count <= 22);
    }
  }
}

template <class Code>
void check_codes_stay(std::uint8_t largest) {
  std::mt19937_64 random{1};
  for (int round = 0; round < 100; ++round) {
    const int exponent = round < 3 ? std::array{-126, 127, -125}[static_cast<std::size_t>(round)]
                                   : static_cast<int>(random() % 254) - 126;
    const float scale = std::ldexp(1.0F + static_cast<float>(random() % 1000) / 1000.0F, exponent);
    CHECK(Code::decode(largest, scale) == scale);
    for (int code = 0; code <= 255; ++code) {
      const float decoded = Code::decode(static_cast<std::uint8_t>(code), scale);
      if (std::fabs(decoded) < std::numeric_limits<float>::min()) continue;
      CAPTURE(scale);
      for (const std::uint32_t dither : {std::uint32_t{8}, dithers / 2, dithers - 8}) {
        REQUIRE(Code::encode(decoded, 1.0F / scale, dither) == code);
      }
    }
  }
}

TEST_CASE("who encodes what was decoded gets the same codes, and the same scale") {
  check_codes_stay<FirstMomentCode>(127);
  check_codes_stay<SecondMomentCode>(255);
}

template <class Code>
void check_errors(int largest, float smallest_share) {
  CHECK(Code::decode(1, 1.0F) == doctest::Approx(smallest_share).epsilon(0.02));
  std::mt19937_64 random{2};
  std::uniform_real_distribution<float> uniform;
  for (int round = 0; round < 300; ++round) {
    const float scale = std::ldexp(1.0F + uniform(random), static_cast<int>(random() % 100) - 50);
    const float value = std::max(std::pow(smallest_share, uniform(random)), Code::decode(1, 1.0F)) * scale;
    int most = 0;
    double worst = 0;
    double sum = 0;
    constexpr int updates = 1024;
    for (std::uint32_t update = 1; update <= updates; ++update) {
      const int code = Code::encode(value, 1.0F / scale, Dither::at(update, 5));
      most = std::max(most, code);
      const double decoded{Code::decode(static_cast<std::uint8_t>(code), scale)};
      worst = std::max(worst, std::fabs(decoded - double{value}));
      sum += decoded;
    }
    REQUIRE(most <= largest);
    REQUIRE(worst <= double{value} / 8.0);
    REQUIRE(std::fabs(sum / updates - double{value}) <= 0.001 * double{value});
  }
}

TEST_CASE("a moment is off by an eighth at most, and stays what it was on the average") {
  check_errors<FirstMomentCode>(127, 0x1p-15F * 0.595F);
  check_errors<SecondMomentCode>(255, 0x1p-31F * 0.595F);
}

TEST_CASE("a scale is the largest magnitude of its block, or says that it has none") {
  using zerospan::detail::magnitude_bits;
  using zerospan::detail::moment_scale;
  CHECK(moment_scale(magnitude_bits(-3.25F)) == 3.25F);
  CHECK(moment_scale(magnitude_bits(0.0F)) == 0.0F);
  CHECK(moment_scale(magnitude_bits(0x1p-126F)) == 0x1p-126F);
  CHECK(moment_scale(magnitude_bits(0x1.fp-127F)) == 0.0F);
  CHECK(moment_scale(magnitude_bits(std::numeric_limits<float>::max())) == std::numeric_limits<float>::max());
  CHECK(std::isnan(moment_scale(magnitude_bits(std::numeric_limits<float>::infinity()))));
  CHECK(std::isnan(moment_scale(magnitude_bits(-std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("the first update is AdamW's, to the bit") {
  constexpr std::size_t n = 3000;
  SubGroup small{AdamW8bit{}, n, ElementType::bfloat16, ElementType::bfloat16};
  small.fill_master(3);
  small.fill_gradient(4);
  SubGroup full{AdamW{}, n, ElementType::bfloat16, ElementType::bfloat16};
  full.master = small.master;
  full.gradient = small.gradient;
  AdamW8bit{}.update(small.run(0, n, 1, 0.5F, {}));
  AdamW{}.update(full.run(0, n, 1, 0.5F, {}));
  CHECK(small.master == full.master);
  CHECK(small.parameter == full.parameter);
}

TEST_CASE("moments are AdamW's, within some percent") {
  constexpr std::size_t n = 2 * block_elements;
  std::mt19937_64 random{5};
  std::normal_distribution<float> normal;
  const AdamW8bit eight{.beta2 = 0.99F};
  const AdamW adamw{.beta2 = 0.99F};
  SubGroup small{eight, n, ElementType::float32, ElementType::float32};
  SubGroup full{adamw, n, ElementType::float32, ElementType::float32};
  for (std::int64_t step = 1; step <= 300; ++step) {
    std::vector<float> gradients(n);
    for (std::size_t i = 0; i < n; ++i) gradients[i] = std::ldexp(normal(random), -static_cast<int>(i % 8));
    set_gradients(small, gradients);
    set_gradients(full, gradients);
    eight.update(small.run(0, n, step, 1.0F, {}));
    adamw.update(full.run(0, n, step, 1.0F, {}));
  }
  const Moments moments{small};
  double first_error = 0;
  double root_error = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double root = std::sqrt(double{full.state(1, i)});
    first_error += std::fabs(double{moments.first(i)} - double{full.state(0, i)}) / root / static_cast<double>(n);
    root_error += std::fabs(std::sqrt(double{moments.second(i)}) - root) / root / static_cast<double>(n);
  }
  MESSAGE("mean errors, in roots of second moments: " << first_error << " and " << root_error);
  CHECK(first_error < 0.05);
  CHECK(root_error < 0.1);
}

TEST_CASE("what is small beside its block has a second moment yet") {
  constexpr std::size_t n = 2 * scaled_elements;
  for (const auto set : instruction_sets()) {
    SubGroup shard{AdamW8bit{}, n, ElementType::float32, ElementType::float32};
    std::vector<float> gradients(n, 1e-9F);
    gradients[100] = 1e3F;
    gradients[101] = 0.0F;
    const std::vector<float> before = shard.master;
    for (std::int64_t step = 1; step <= 20; ++step) {
      set_gradients(shard, gradients);
      AdamW8bit{}.update(shard.run(0, n, step, 1.0F, {}), set);
    }
    const Moments moments{shard};
    for (std::size_t i = 0; i < n; ++i) {
      CAPTURE(i);
      CHECK(moments.second_code(i) == (i == 101 ? 0 : i == 100 || i >= scaled_elements ? 255 : 1));
      CHECK(std::fabs(shard.master[i] - before[i]) < 0.1F);
    }
    CHECK(moments.first_code(0) == 0);  // it has no direction in 8 bits
  }
}

TEST_CASE("padding, and what has no gradient, stays zero") {
  constexpr std::size_t n = block_elements + 300;
  for (const auto set : instruction_sets()) {
    SubGroup shard{AdamW8bit{}, n, ElementType::bfloat16, ElementType::bfloat16};
    shard.fill_gradient(6);
    std::fill(shard.gradient.begin() + 2 * 40, shard.gradient.begin() + 2 * 90, std::byte{0});
    for (std::int64_t step = 1; step <= 5; ++step) AdamW8bit{}.update(shard.run(0, n, step, 1.0F, {}), set);
    const Moments moments{shard};
    for (std::size_t i = 0; i < shard.capacity; ++i) {
      const bool is_zero = (i >= 40 && i < 90) || i >= n;
      CAPTURE(i);
      REQUIRE((moments.second_code(i) == 0) == is_zero);
      REQUIRE((shard.master[i] == 0) == is_zero);
      if (is_zero) REQUIRE(moments.first_code(i) == 0);
    }
  }
}

TEST_CASE("a run leaves its neighbours alone") {
  constexpr std::size_t n = 4 * block_elements;
  SubGroup shard{AdamW8bit{}, n, ElementType::bfloat16, ElementType::bfloat16};
  shard.fill_master(7);
  shard.fill_gradient(8);
  const SubGroup before = shard;
  AdamW8bit{}.update(shard.run(block_elements, 2 * block_elements - 3, 1, 1.0F, {}));
  const Moments moments{shard};
  for (std::size_t i = 0; i < n; ++i) {
    const bool inside = i >= block_elements && i < 3 * block_elements - 3;
    REQUIRE((shard.master[i] != before.master[i]) == inside);
    REQUIRE((moments.second_code(i) != 0) == inside);
    const bool in_blocks = i >= block_elements && i < 3 * block_elements;
    REQUIRE((moments.first_scale(i) != 0) == in_blocks);
    REQUIRE((moments.second_scale(i) != 0) == in_blocks);
  }
}

/// Where a noisy quadratic with curvatures of two decades ends: the mean square distance from its minimum.
template <zerospan::Optimizer O>
double distance_after_training(O optimizer) {
  constexpr std::size_t n = 2 * block_elements;
  constexpr std::int64_t steps = 1500;
  std::mt19937_64 random{15};
  std::normal_distribution<float> normal;
  SubGroup shard{optimizer, n, ElementType::float32, ElementType::float32};
  shard.fill_master(16);
  const float rate = optimizer.learning_rate;
  const auto target = [](std::size_t i) { return static_cast<float>(i % 17) / 8.0F - 1.0F; };
  for (std::int64_t step = 1; step <= steps; ++step) {
    optimizer.learning_rate = rate * (1.0F - static_cast<float>(step) / static_cast<float>(steps + 1));
    std::vector<float> gradients(n);
    for (std::size_t i = 0; i < n; ++i) {
      const float curvature = std::pow(10.0F, static_cast<float>(i % 5) / 2.0F - 1.0F);
      gradients[i] = curvature * (shard.master[i] - target(i) + 0.1F * normal(random));
    }
    set_gradients(shard, gradients);
    optimizer.update(shard.run(0, n, step, 1.0F, {}));
  }
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += std::pow(double{shard.master[i]} - double{target(i)}, 2);
  return sum / static_cast<double>(n);
}

TEST_CASE("it ends where AdamW does") {
  const double full = distance_after_training(AdamW{.learning_rate = 0.02F, .weight_decay = 0.0F});
  const double small = distance_after_training(AdamW8bit{.learning_rate = 0.02F, .weight_decay = 0.0F});
  MESSAGE("mean square distances: AdamW " << full << ", AdamW8bit " << small);
  CHECK(full < 1e-3);
  CHECK(small < 1.1 * full);
}

TEST_CASE("a gradient that is not finite stays in its block") {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const auto set : instruction_sets()) {
      SubGroup shard{AdamW8bit{}, 3 * scaled_elements, ElementType::float32, ElementType::bfloat16};
      shard.fill_master(17);
      for (std::int64_t step = 1; step <= 2; ++step) {
        shard.fill_gradient(18);
        if (step == 1) std::memcpy(shard.gradient.data() + 4 * (scaled_elements + 21), &value, sizeof value);
        AdamW8bit{}.update(shard.run(0, shard.n, step, 1.0F, {}), set);
        const Moments moments{shard};
        for (std::size_t i = 0; i < shard.n; ++i) {
          const bool is_beside = i / scaled_elements == 1;
          CAPTURE(i);
          REQUIRE(std::isnan(shard.master[i]) == (step == 1 ? i == scaled_elements + 21 : is_beside));
          REQUIRE(std::isnan(moments.first_scale(i)) == is_beside);
          REQUIRE(std::isnan(moments.second_scale(i)) == is_beside);
        }
      }
    }
  }
}

TEST_CASE("states are two bytes an element, and two floats a block") {
  CHECK(AdamW8bit{}.state_bytes(0) == 0);
  CHECK(AdamW8bit{}.state_bytes(block_elements) == 2 * block_elements + 32);
}

TEST_CASE("settings without sense are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](const AdamW8bit& adamw, const char* name) { return zerospan_test::refuses(adamw, name); };
  CHECK_NOTHROW(AdamW8bit{}.validate());
  CHECK(refused({.learning_rate = nan}, "learning_rate"));
  CHECK(refused({.beta1 = 1.0F}, "beta1"));
  CHECK(refused({.beta2 = -0.1F}, "beta2"));
  CHECK(refused({.epsilon = 0.0F}, "epsilon"));
  CHECK(refused({.weight_decay = -1.0F}, "weight_decay"));
}

TEST_CASE("an update before the first is refused") {
  SubGroup shard{AdamW8bit{}, 8, ElementType::float32, ElementType::float32};
  CHECK_THROWS_WITH_AS(AdamW8bit{}.update(shard.run(0, 8, 0, 1.0F, {})), "AdamW8bit: update 0; the first is 1",
                       zerospan::ConfigurationError);
}

}  // namespace
