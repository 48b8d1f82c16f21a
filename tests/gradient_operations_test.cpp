#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/detail/gradient_kernels.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

namespace {

using zerospan::Addition;
using zerospan::block_elements;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::GradientAddition;
using zerospan::detail::ExactSum;
using Limbs = std::array<std::int64_t, ExactSum::limb_count>;

/// An accumulator's type, and the gradient's.
constexpr std::array<std::pair<ElementType, ElementType>, 5> type_pairs{{
    {ElementType::float32, ElementType::float32},
    {ElementType::float32, ElementType::bfloat16},
    {ElementType::float32, ElementType::float16},
    {ElementType::bfloat16, ElementType::bfloat16},
    {ElementType::float16, ElementType::float16},
}};
constexpr std::array<std::size_t, 8> lengths{0, 1, 17, 1023, 1024, 1025, 3000, 8192};

std::vector<std::byte> random_elements(std::size_t n, ElementType type, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = std::ldexp(normal(random), static_cast<int>(random() % 32) - 20);
  std::vector<std::byte> bytes(n * element_bytes(type));
  zerospan::from_float(values.data(), type, bytes.data(), n);
  return bytes;
}

std::vector<float> floats_of(const std::vector<std::byte>& bytes, ElementType type) {
  std::vector<float> values(bytes.size() / element_bytes(type));
  zerospan::to_float(type, bytes.data(), values.data(), values.size());
  return values;
}

/// What `add_gradient` promises, element by element.
std::vector<std::byte> promised(const GradientAddition& what, const std::vector<std::byte>& target,
                                const std::vector<std::byte>& source) {
  if (what.addition == Addition::replace && what.type == what.source_type) return source;
  std::vector<float> sums = floats_of(target, what.type);
  const std::vector<float> addends = floats_of(source, what.source_type);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = what.addition == Addition::replace ? addends[i] : sums[i] + addends[i];
  }
  std::vector<std::byte> result(target.size());
  zerospan::from_float(sums.data(), what.type, result.data(), sums.size());
  return result;
}

double value_of(const Limbs& limbs) {
  ExactSum sum;
  std::ranges::copy(limbs, sum.limbs().begin());
  return sum.value();
}

/// The norm of [begin, end), which may be empty.
double square_sum(const std::vector<std::byte>& values, ElementType type, std::size_t begin, std::size_t end) {
  ExactSum sum;
  if (begin < end) zerospan::detail::square_norm(type, values.data() + begin * element_bytes(type), end - begin, sum);
  return sum.value();
}

TEST_CASE("a gradient replaces the accumulator or is added to it, bit for bit; the norm is the result's") {
  for (const auto& [type, source_type] : type_pairs) {
    for (const std::size_t n : lengths) {
      for (const Addition addition : {Addition::replace, Addition::add}) {
        for (const std::size_t begin : {std::size_t{0}, block_elements, 4 * block_elements}) {
          for (const std::size_t end : {std::size_t{0}, n / 2, n}) {
            CAPTURE(n);
            CAPTURE(begin);
            CAPTURE(end);
            const auto before = random_elements(n, type, 1 + n);
            const auto source = random_elements(n, source_type, 2 + n);
            auto target = before;
            Limbs limbs{};
            const GradientAddition what{.type = type,
                                        .target = target.data(),
                                        .source_type = source_type,
                                        .source = source.data(),
                                        .elements = n,
                                        .addition = addition,
                                        .norm_begin = begin,
                                        .norm_end = end,
                                        .limbs = limbs.data()};
            add_gradient(zerospan::calling_thread, what);
            CHECK(target == promised(what, before, source));
            CHECK(value_of(limbs) == square_sum(target, type, begin, end));
          }
        }
      }
    }
  }
}

TEST_CASE("the norms of pieces add up in the limbs") {
  constexpr std::size_t n = 5 * block_elements + 100;
  constexpr ElementType type = ElementType::bfloat16;
  const auto source = random_elements(n, type, 3);
  std::vector<std::byte> target(source.size());
  Limbs limbs{};
  for (std::size_t first = 0; first < n; first += 2 * block_elements) {
    const std::size_t count = std::min(2 * block_elements, n - first);
    add_gradient(zerospan::calling_thread, {.type = type,
                                            .target = target.data() + first * element_bytes(type),
                                            .source_type = type,
                                            .source = source.data() + first * element_bytes(type),
                                            .elements = count,
                                            .addition = Addition::replace,
                                            .norm_begin = 0,
                                            .norm_end = count,
                                            .limbs = limbs.data()});
  }
  CHECK(target == source);
  CHECK(value_of(limbs) == square_sum(source, type, 0, n));
}

TEST_CASE("without a norm no limbs are needed") {
  const auto source = random_elements(10, ElementType::float32, 4);
  std::vector<std::byte> target(source.size());
  add_gradient(zerospan::calling_thread, {.type = ElementType::float32,
                                          .target = target.data(),
                                          .source_type = ElementType::float32,
                                          .source = source.data(),
                                          .elements = 10,
                                          .addition = Addition::replace,
                                          .norm_begin = 0,
                                          .norm_end = 0,
                                          .limbs = nullptr});
  CHECK(target == source);
}

TEST_CASE("a block with an element that is not finite is counted in the last limb") {
  const std::vector<float> source{1.0F, std::numeric_limits<float>::infinity(), 2.0F};
  std::vector<float> target(source.size());
  Limbs limbs{};
  add_gradient(zerospan::calling_thread, {.type = ElementType::float32,
                                          .target = reinterpret_cast<std::byte*>(target.data()),
                                          .source_type = ElementType::float32,
                                          .source = reinterpret_cast<const std::byte*>(source.data()),
                                          .elements = source.size(),
                                          .addition = Addition::replace,
                                          .norm_begin = 0,
                                          .norm_end = source.size(),
                                          .limbs = limbs.data()});
  CHECK(target == source);
  CHECK(limbs.back() == 1);
}

}  // namespace
