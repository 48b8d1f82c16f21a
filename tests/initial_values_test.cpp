#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/initializer.hpp>
#include <zerospan/kernels/initial_values.hpp>
#include <zerospan/tiling/tile_grid.hpp>

#include "support/instruction_sets.hpp"

namespace {

using zerospan::Initializer;
using zerospan::InitializerContext;
using zerospan::InstructionSet;

std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

constexpr std::size_t columns = 5000;

/// Of a matrix of normal values: some rows, and so many columns of it.
Initializer tile(std::size_t first_column, std::size_t count) {
  return zerospan::tile_initializer(zerospan::init::normal(0.02F), 9, columns,
                                    {.outputs = {3, 9}, .inputs = {first_column, count}, .accumulates = false});
}

TEST_CASE("vector instructions give the initializers' own bits, from any element on") {
  const std::vector<Initializer> initializers{zerospan::init::normal(0.02F),
                                              zerospan::init::normal(1.0F),
                                              zerospan::init::uniform(0.5F),
                                              zerospan::init::constant(3.0F),
                                              tile(100, 4000),
                                              tile(0, columns)};
  for (const InstructionSet set : zerospan_test::instruction_sets()) {
    for (const Initializer& initializer : initializers) {
      for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, (std::uint64_t{1} << 32) - 700}) {
        for (const std::size_t n : {0U, 1U, 7U, 8U, 1024U, 40'003U}) {
          const InitializerContext context{.seed = 0x1234'5678'9abc'def0U + first, .stream = ~std::uint64_t{n}};
          std::vector<float> expected(n);
          std::vector<float> found(n);
          initializer(context, first, expected);
          zerospan::initialize(initializer, context, first, found, set);
          REQUIRE(bits_of(found) == bits_of(expected));
        }
      }
    }
  }
}

TEST_CASE("a host's own initializer is called as it is") {
  std::vector<float> values(10);
  const Initializer own = [](const InitializerContext& context, std::uint64_t first, std::span<float> span) {
    std::ranges::fill(span, static_cast<float>(context.seed + context.stream + first));
  };
  zerospan::initialize(own, {.seed = 1, .stream = 20}, 300, values);
  CHECK(values == std::vector<float>(10, 321.0F));
}

#if defined(__x86_64__)
/// Words where logarithms vanish and cosines change their quarter, and those beside them.
std::vector<std::uint32_t> special_words() {
  std::vector<std::uint32_t> words;
  for (std::uint32_t eighth = 0; eighth < 8; ++eighth) {
    for (std::uint32_t offset = 0; offset < 9; ++offset) words.push_back((eighth << 29) + offset - 4);
  }
  for (std::uint32_t bit = 1; bit != 0; bit <<= 1) {
    for (const std::uint32_t word : {bit, bit - 1, ~bit, 0U - bit}) words.push_back(word);
  }
  return words;
}

[[gnu::target("avx2,fma,f16c")]] std::array<float, 4> normal(const std::array<std::uint64_t, 4>& first,
                                                             const std::array<std::uint64_t, 4>& second) {
  std::array<float, 4> values;
  const auto load = [](const auto& words) __attribute__((target("avx2,fma,f16c"))) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(words.data()));
  };
  _mm_storeu_ps(values.data(), zerospan::detail::avx2::normal4({load(first), load(second)}));
  return values;
}

TEST_CASE("values at the ends of logarithms and quarters of a circle are those of the C++ library") {
  if (!zerospan::has_avx2(zerospan::best_instruction_set())) return;
  const std::vector<std::uint32_t> words = special_words();
  for (const std::uint32_t first : words) {
    for (std::size_t i = 0; i + 4 <= words.size(); i += 4) {
      const auto found = normal({first, first, first, first}, {words[i], words[i + 1], words[i + 2], words[i + 3]});
      for (std::size_t k = 0; k < 4; ++k) {
        CAPTURE(first);
        CAPTURE(words[i + k]);
        const float expected = zerospan::detail::standard_normal(first, words[i + k]);
        REQUIRE(std::bit_cast<std::uint32_t>(found[k]) == std::bit_cast<std::uint32_t>(expected));
      }
    }
  }
}
#endif

}  // namespace
