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

#include <zerospan/core/convert.hpp>
#include <zerospan/core/cpu.hpp>
#include <zerospan/core/element.hpp>

namespace host {

struct bf16 {
  std::uint16_t bits;
};

struct TooLarge {
  std::uint32_t bits;
};

struct NotTrivial {
  NotTrivial() = default;
  NotTrivial(const NotTrivial& other) : bits{other.bits} {}
  NotTrivial& operator=(const NotTrivial&) = default;
  std::uint16_t bits = 0;
};

}  // namespace host

template <>
struct zerospan::ElementTraits<host::bf16> {
  static constexpr auto type = zerospan::ElementType::bfloat16;
};
template <>
struct zerospan::ElementTraits<host::TooLarge> {
  static constexpr auto type = zerospan::ElementType::bfloat16;
};
template <>
struct zerospan::ElementTraits<host::NotTrivial> {
  static constexpr auto type = zerospan::ElementType::bfloat16;
};

namespace {

using zerospan::bfloat16;
using zerospan::ElementType;
using zerospan::InstructionSet;

static_assert(zerospan::Element<host::bf16>);
static_assert(!zerospan::Element<host::TooLarge>, "larger than its format");
static_assert(!zerospan::Element<host::NotTrivial>, "not trivially copyable");
static_assert(!zerospan::Element<std::uint16_t>, "says no format");

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets{InstructionSet::scalar};
  if (zerospan::best_instruction_set() != InstructionSet::scalar) sets.push_back(zerospan::best_instruction_set());
  return sets;
}

bool is_nan_word(std::uint32_t word) { return (word & 0x7fffffffU) > 0x7f800000U; }

/// The nearest bfloat16, found by comparing exact distances in double (never NaN here).
std::uint16_t nearest_by_distance(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const auto below = static_cast<std::uint16_t>(word >> 16);  // toward zero
  const auto above = static_cast<std::uint16_t>(below + 1);   // away from zero; past the largest it is infinity
  const auto magnitude = [](std::uint16_t bits) {
    if ((bits & 0x7fffU) == 0x7f80U) return 0x1p128;  // infinity stands for the next power of two
    return std::fabs(static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16)));
  };
  const double to_below = std::fabs(static_cast<double>(value)) - magnitude(below);
  const double to_above = magnitude(above) - std::fabs(static_cast<double>(value));
  if (to_below == to_above) return (below & 1U) == 0 ? below : above;
  return to_below < to_above ? below : above;
}

TEST_CASE("element sizes and names") {
  CHECK(zerospan::element_bytes(ElementType::float32) == 4);
  CHECK(zerospan::element_bytes(ElementType::bfloat16) == 2);
  CHECK(std::string{zerospan::to_string(ElementType::float32)} == "float32");
  CHECK(std::string{zerospan::to_string(ElementType::bfloat16)} == "bfloat16");
}

TEST_CASE("every bfloat16 survives the way to float and back") {
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    bfloat16 element;
    element.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(element);
    REQUIRE(std::bit_cast<std::uint32_t>(value) == bits << 16);
    const std::uint32_t expected = is_nan_word(bits << 16) ? bits | 0x40U : bits;  // a NaN comes back quiet
    REQUIRE(bfloat16{value}.bits == expected);
  }
}

TEST_CASE("rounding around every bfloat16 is to nearest, ties to even") {
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    for (const std::uint32_t low : {0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const std::uint32_t word = (bits << 16) | low;
      const std::uint16_t rounded = bfloat16::round(word);
      if (is_nan_word(word)) {
        REQUIRE(rounded == (bits | 0x40U));
        REQUIRE(is_nan_word(static_cast<std::uint32_t>(rounded) << 16));
      } else {
        REQUIRE(rounded == nearest_by_distance(std::bit_cast<float>(word)));
      }
    }
  }
}

TEST_CASE("overflow rounds to infinity and not to NaN") {
  CHECK(bfloat16{std::numeric_limits<float>::max()}.bits == 0x7f80);
  CHECK(bfloat16{-std::numeric_limits<float>::max()}.bits == 0xff80);
  CHECK(bfloat16{std::numeric_limits<float>::infinity()}.bits == 0x7f80);
}

TEST_CASE("bulk narrowing equals the element's own rounding, in every instruction set") {
  std::vector<std::uint32_t> words;
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U}) words.push_back((bits << 16) | low);
  }
  std::vector<float> values(words.size());
  std::memcpy(values.data(), words.data(), words.size() * sizeof(float));
  for (const InstructionSet set : instruction_sets()) {
    CAPTURE(zerospan::to_string(set));
    std::vector<std::uint16_t> narrow(words.size());
    zerospan::from_float(values.data(), ElementType::bfloat16, reinterpret_cast<std::byte*>(narrow.data()),
                         values.size(), set);
    for (std::size_t i = 0; i < words.size(); ++i) REQUIRE(narrow[i] == bfloat16::round(words[i]));
  }
}

TEST_CASE("bulk conversions of every length touch exactly their elements") {
  std::mt19937_64 random{7};
  for (const InstructionSet set : instruction_sets()) {
    for (std::size_t n = 0; n <= 41; ++n) {
      CAPTURE(n);
      std::vector<std::uint16_t> narrow(n + 1);
      for (auto& bits : narrow) bits = static_cast<std::uint16_t>(random() & 0x7effU);  // no NaN
      std::vector<float> wide(n + 1, -1.0F);
      zerospan::to_float(ElementType::bfloat16, reinterpret_cast<const std::byte*>(narrow.data()), wide.data(), n, set);
      CHECK(wide[n] == -1.0F);
      for (std::size_t i = 0; i < n; ++i) {
        REQUIRE(std::bit_cast<std::uint32_t>(wide[i]) == static_cast<std::uint32_t>(narrow[i]) << 16);
      }
      std::vector<std::uint16_t> back(n + 1, 0xabcd);
      zerospan::from_float(wide.data(), ElementType::bfloat16, reinterpret_cast<std::byte*>(back.data()), n, set);
      CHECK(back[n] == 0xabcd);
      for (std::size_t i = 0; i < n; ++i) REQUIRE(back[i] == narrow[i]);
    }
  }
}

TEST_CASE("fp32 conversions copy bits, NaN payloads included") {
  const std::array words{0x7f800001U, 0xffc12345U, 0x00000001U, 0x80000000U, 0x7f7fffffU};
  std::array<float, words.size()> values{};
  zerospan::to_float(ElementType::float32, reinterpret_cast<const std::byte*>(words.data()), values.data(),
                     words.size());
  std::array<std::uint32_t, words.size()> back{};
  zerospan::from_float(values.data(), ElementType::float32, reinterpret_cast<std::byte*>(back.data()), back.size());
  CHECK(back == words);
}

}  // namespace
