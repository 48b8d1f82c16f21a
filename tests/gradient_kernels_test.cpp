#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/detail/gradient_kernels.hpp>

#include "support/instruction_sets.hpp"

namespace {

using zerospan::block_elements;
using zerospan::ElementType;
using zerospan::InstructionSet;
using zerospan::detail::ExactSum;
using zerospan_test::instruction_sets;

constexpr std::array types{ElementType::float32, ElementType::bfloat16, ElementType::float16};
constexpr std::array<std::size_t, 12> lengths{0, 1, 7, 8, 15, 16, 17, 1023, 1024, 1025, 4096, 5001};

std::vector<float> random_floats(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = std::ldexp(normal(random), static_cast<int>(random() % 32) - 20);
  return values;
}

std::vector<std::byte> elements_of(const std::vector<float>& values, ElementType type) {
  std::vector<std::byte> bytes(values.size() * zerospan::element_bytes(type));
  zerospan::from_float(values.data(), type, bytes.data(), values.size());
  return bytes;
}

std::vector<float> floats_of(const std::vector<std::byte>& bytes, ElementType type) {
  std::vector<float> values(bytes.size() / zerospan::element_bytes(type));
  zerospan::to_float(type, bytes.data(), values.data(), values.size());
  return values;
}

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

/// The order of the sum as it is promised: 16 lanes a block, explicit fma, folded by halves, padded by zeros.
double promised_square_sum(std::vector<float> values) {
  values.resize(zerospan::round_up(values.size(), block_elements), 0.0F);
  ExactSum sum;
  for (std::size_t block = 0; block < values.size(); block += block_elements) {
    std::array<double, 16> lanes{};
    for (std::size_t i = 0; i < block_elements; ++i) {
      const auto x = static_cast<double>(values[block + i]);
      lanes[i % 16] = std::fma(x, x, lanes[i % 16]);
    }
    for (std::size_t width : {8U, 4U, 2U, 1U}) {
      for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    }
    sum.add(lanes[0]);
  }
  return sum.value();
}

TEST_CASE("accumulate adds in fp32, bit for bit, in every instruction set") {
  for (const ElementType type : types) {
    for (const std::size_t n : lengths) {
      const auto gradient = elements_of(random_floats(n, 10 + n), type);
      const auto widened = floats_of(gradient, type);
      std::vector<float> expected = random_floats(n + 1, 20 + n);
      const std::vector<float> before = expected;
      for (std::size_t i = 0; i < n; ++i) expected[i] = expected[i] + widened[i];
      for (const InstructionSet set : instruction_sets()) {
        CAPTURE(n);
        CAPTURE(zerospan::to_string(set));
        std::vector<float> accumulator = before;
        zerospan::detail::accumulate(accumulator.data(), type, gradient.data(), n, set);
        CHECK(bits_of(accumulator) == bits_of(expected));
      }
    }
  }
}

TEST_CASE("the norm has the promised order in every instruction set") {
  for (const ElementType type : types) {
    for (const std::size_t n : lengths) {
      const auto gradient = elements_of(random_floats(n, 30 + n), type);
      const double expected = promised_square_sum(floats_of(gradient, type));
      for (const InstructionSet set : instruction_sets()) {
        CAPTURE(n);
        CAPTURE(zerospan::to_string(set));
        ExactSum sum;
        zerospan::detail::square_norm(type, gradient.data(), n, sum, set);
        CHECK(sum.value() == expected);
      }
    }
  }
}

TEST_CASE("a shorter block counts as padded by zeros") {
  auto values = random_floats(1500, 40);
  const auto short_bytes = elements_of(values, ElementType::bfloat16);
  values.resize(2048, 0.0F);
  const auto padded_bytes = elements_of(values, ElementType::bfloat16);
  ExactSum as_is;
  ExactSum padded;
  zerospan::detail::square_norm(ElementType::bfloat16, short_bytes.data(), 1500, as_is);
  zerospan::detail::square_norm(ElementType::bfloat16, padded_bytes.data(), 2048, padded);
  CHECK(as_is.value() == padded.value());
}

TEST_CASE("the norm does not depend on how blocks are shared out and ordered") {
  constexpr std::size_t blocks = 37;
  constexpr std::size_t n = blocks * block_elements - 300;
  std::mt19937_64 random{50};
  for (const ElementType type : types) {
    const auto gradient = elements_of(random_floats(n, 51), type);
    ExactSum whole;
    zerospan::detail::square_norm(type, gradient.data(), n, whole);
    for (int repetition = 0; repetition < 10; ++repetition) {
      std::vector<std::size_t> cuts{0, blocks};
      for (int i = 0; i < 6; ++i) cuts.push_back(random() % blocks);
      std::ranges::sort(cuts);
      std::vector<std::size_t> pieces(cuts.size() - 1);
      for (std::size_t i = 0; i < pieces.size(); ++i) pieces[i] = i;
      std::ranges::shuffle(pieces, random);
      std::vector<ExactSum> ranks(3);
      for (const std::size_t piece : pieces) {
        const std::size_t first = cuts[piece] * block_elements;
        const std::size_t last = std::min(cuts[piece + 1] * block_elements, n);
        zerospan::detail::square_norm(type, gradient.data() + first * zerospan::element_bytes(type), last - first,
                                      ranks[piece % ranks.size()]);
      }
      for (std::size_t r = 1; r < ranks.size(); ++r) ranks[0].merge(ranks[r]);
      CHECK(std::bit_cast<std::uint64_t>(ranks[0].value()) == std::bit_cast<std::uint64_t>(whole.value()));
    }
  }
}

TEST_CASE("the norm is right") {
  const auto values = random_floats(100000, 60);
  long double reference = 0;
  for (const float value : values) reference += static_cast<long double>(value) * static_cast<long double>(value);
  ExactSum sum;
  zerospan::detail::square_norm(ElementType::float32, reinterpret_cast<const std::byte*>(values.data()), values.size(),
                                sum);
  CHECK(sum.value() == doctest::Approx(static_cast<double>(reference)).epsilon(1e-14));
}

TEST_CASE("an element that is not finite is found wherever it is") {
  for (const ElementType type : types) {
    for (const float poison : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN()}) {
      for (const std::size_t where : {0U, 5U, 1023U, 1024U, 2039U, 2049U}) {
        auto values = random_floats(2050, 70);
        ExactSum sound;
        zerospan::detail::square_norm(type, elements_of(values, type).data(), values.size(), sound);
        CHECK(sound.finite());
        values[where] = poison;
        ExactSum poisoned;
        zerospan::detail::square_norm(type, elements_of(values, type).data(), values.size(), poisoned);
        CHECK_FALSE(poisoned.finite());
      }
    }
  }
}

TEST_CASE("the largest and the smallest gradients neither overflow nor vanish") {
  const std::vector<float> extremes{std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
  ExactSum sum;
  for (const float value : extremes) {
    zerospan::detail::square_norm(ElementType::float32, reinterpret_cast<const std::byte*>(&value), 1, sum);
  }
  CHECK(sum.finite());
  sum.add(-std::pow(static_cast<double>(extremes[0]), 2));
  CHECK(sum.value() == 0x1p-298);
}

}  // namespace
