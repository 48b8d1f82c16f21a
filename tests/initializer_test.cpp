#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/initializer.hpp>

namespace {

using zerospan::Initializer;
using zerospan::InitializerContext;

std::vector<float> filled(const Initializer& initializer, InitializerContext context, std::size_t n) {
  std::vector<float> values(n, -77.0F);
  initializer(context, 0, values);
  return values;
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments_of(const std::vector<float>& values) {
  const auto n = static_cast<double>(values.size());
  Moments moments;
  for (const float value : values) moments.mean += double{value} / n;
  for (const float value : values) moments.deviation += std::pow(double{value} - moments.mean, 2) / n;
  moments.deviation = std::sqrt(moments.deviation);
  return moments;
}

TEST_CASE("constants fill") {
  const InitializerContext context{.seed = 1, .stream = 2};
  CHECK(filled(zerospan::init::zeros(), context, 5) == std::vector<float>(5, 0.0F));
  CHECK(filled(zerospan::init::ones(), context, 5) == std::vector<float>(5, 1.0F));
  CHECK(filled(zerospan::init::constant(-2.5F), context, 5) == std::vector<float>(5, -2.5F));
}

TEST_CASE("values depend on the logical index and not on the split") {
  constexpr std::size_t n = 10000;
  const InitializerContext context{.seed = 42, .stream = 3};
  std::mt19937_64 random{1};
  for (const Initializer& initializer : {zerospan::init::normal(0.02F), zerospan::init::uniform(0.5F)}) {
    const std::vector<float> whole = filled(initializer, context, n);
    std::vector<std::size_t> cuts{0, n};
    for (int i = 0; i < 50; ++i) cuts.push_back(random() % n);
    std::ranges::sort(cuts);
    std::vector<float> pieces(n);
    for (std::size_t i = cuts.size() - 1; i-- > 0;) {
      initializer(context, cuts[i], std::span{pieces}.subspan(cuts[i], cuts[i + 1] - cuts[i]));
    }
    for (std::size_t i = 0; i < n; ++i) {
      REQUIRE(std::bit_cast<std::uint32_t>(pieces[i]) == std::bit_cast<std::uint32_t>(whole[i]));
    }
  }
}

TEST_CASE("indices past 32 bits are indices of their own") {
  const InitializerContext context{.seed = 42, .stream = 3};
  std::vector<float> low(100);
  std::vector<float> high(100);
  zerospan::init::normal(1.0F)(context, 0, low);
  zerospan::init::normal(1.0F)(context, std::uint64_t{1} << 32, high);
  CHECK(low != high);
}

TEST_CASE("seed and position of the parameter select the values") {
  const Initializer normal = zerospan::init::normal(1.0F);
  const auto base = filled(normal, {.seed = 1, .stream = 1}, 100);
  CHECK(filled(normal, {.seed = 1, .stream = 1}, 100) == base);
  CHECK(filled(normal, {.seed = 2, .stream = 1}, 100) != base);
  CHECK(filled(normal, {.seed = 1, .stream = 2}, 100) != base);
}

TEST_CASE("normal values have their mean, their deviation and their tails") {
  constexpr std::size_t n = 200000;
  const auto values = filled(zerospan::init::normal(0.5F), {.seed = 7, .stream = 0}, n);
  const Moments moments = moments_of(values);
  CHECK(std::fabs(moments.mean) < 5 * 0.5 / std::sqrt(n));
  CHECK(moments.deviation == doctest::Approx(0.5).epsilon(0.01));
  const auto within = [&](float bound) {
    return static_cast<double>(std::ranges::count_if(values, [&](float v) { return std::fabs(v) < bound; })) / n;
  };
  CHECK(within(0.5F) == doctest::Approx(0.6827).epsilon(0.01));
  CHECK(within(1.0F) == doctest::Approx(0.9545).epsilon(0.01));
  CHECK(std::ranges::all_of(values, [](float v) { return std::isfinite(v); }));
}

TEST_CASE("uniform values fill their interval evenly") {
  constexpr std::size_t n = 200000;
  const auto values = filled(zerospan::init::uniform(2.0F), {.seed = 7, .stream = 0}, n);
  const Moments moments = moments_of(values);
  CHECK(std::fabs(moments.mean) < 0.02);
  CHECK(moments.deviation == doctest::Approx(2.0 / std::sqrt(3.0)).epsilon(0.01));
  CHECK(std::ranges::all_of(values, [](float v) { return v >= -2.0F && v <= 2.0F; }));
  CHECK(*std::ranges::min_element(values) < -1.99F);
  CHECK(*std::ranges::max_element(values) > 1.99F);
}

}  // namespace
