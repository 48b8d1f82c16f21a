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
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>

#include "support/instruction_sets.hpp"
#include "support/sample.hpp"

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
using zerospan::float16;
using zerospan::InstructionSet;
using zerospan_test::instruction_sets;

static_assert(zerospan::Element<host::bf16>);
static_assert(!zerospan::Element<host::TooLarge>, "larger than its format");
static_assert(!zerospan::Element<host::NotTrivial>, "not trivially copyable");
static_assert(!zerospan::Element<std::uint16_t>, "says no format");

/// How a 16-bit format splits its bits.
struct Format {
  int fraction_bits;
  int exponent_bias;
};
template <class E>
constexpr Format format = std::is_same_v<E, float16> ? Format{10, 15} : Format{7, 127};

/// What the bits say, from the definition of the format. Infinity stands for the next power of two.
double magnitude_of(std::uint32_t bits, Format f) {
  const auto fraction = static_cast<double>(bits & ((1U << f.fraction_bits) - 1));
  const int exponent = static_cast<int>((bits & 0x7fffU) >> f.fraction_bits);
  const double unit = std::ldexp(1.0, std::max(exponent, 1) - f.exponent_bias - f.fraction_bits);
  return (fraction + (exponent > 0 ? std::ldexp(1.0, f.fraction_bits) : 0.0)) * unit;
}

std::uint32_t infinity_of(Format f) { return 0x7fffU >> f.fraction_bits << f.fraction_bits; }

/// The nearest element (of a value that is not NaN), found by comparing exact distances in double.
template <class E>
std::uint16_t nearest_by_distance(float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  std::uint32_t below = 0;
  for (std::uint32_t bit = 0x4000U; bit > 0; bit >>= 1) {
    if ((below | bit) < infinity_of(format<E>) && magnitude_of(below | bit, format<E>) <= magnitude) below |= bit;
  }
  const double to_below = magnitude - magnitude_of(below, format<E>);
  const double to_above = magnitude_of(below + 1, format<E>) - magnitude;
  const bool up = to_below == to_above ? (below & 1U) != 0 : to_above < to_below;
  return static_cast<std::uint16_t>((std::signbit(value) ? 0x8000U : 0U) | (below + (up ? 1U : 0U)));
}

template <class E>
bool is_nan(std::uint32_t bits) {
  return (bits & 0x7fffU) > infinity_of(format<E>);
}

/// The floats around every element and halfway to the next one, and many others; NaNs of all kinds among them.
template <class E>
std::vector<float> telling_floats() {
  std::vector<std::uint32_t> words;
  for (std::uint32_t bits = 0; bits <= 0xffffU; bits += zerospan_test::is_sanitized ? 7 : 1) {
    E element;
    element.bits = static_cast<std::uint16_t>(bits);
    const auto word = std::bit_cast<std::uint32_t>(static_cast<float>(element));
    for (const std::uint32_t offset : {0U, 1U, 0x0fffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      words.push_back(word + offset);
      words.push_back(word - offset);
    }
    const float halfway = std::fabs(static_cast<float>(element)) + 0x1p-25F;  // if the element is a subnormal float16
    for (const float limit : {0.0F, halfway, 1e30F}) {
      words.push_back(std::bit_cast<std::uint32_t>(std::nextafter(halfway, limit)) | (word & 0x80000000U));
    }
  }
  std::mt19937 random{11};
  constexpr int others = zerospan_test::is_sanitized ? 20'000 : 200'000;
  for (int i = 0; i < others; ++i) words.push_back(static_cast<std::uint32_t>(random()));
  std::vector<float> values(words.size());
  std::memcpy(values.data(), words.data(), words.size() * sizeof(float));
  return values;
}

TEST_CASE("element sizes and names") {
  CHECK(zerospan::element_bytes(ElementType::float32) == 4);
  CHECK(zerospan::element_bytes(ElementType::bfloat16) == 2);
  CHECK(zerospan::element_bytes(ElementType::float16) == 2);
  CHECK(std::string{zerospan::to_string(ElementType::float32)} == "float32");
  CHECK(std::string{zerospan::to_string(ElementType::bfloat16)} == "bfloat16");
  CHECK(std::string{zerospan::to_string(ElementType::float16)} == "float16");
}

TEST_CASE("conversions are known to the compiler") {
  static_assert(float16{1.0F}.bits == 0x3c00 && float16{-2.0F}.bits == 0xc000 && float16{0x1p-24F}.bits == 1);
  static_assert(float16{65519.0F}.bits == 0x7bff && float16{65520.0F}.bits == 0x7c00);
  static_assert(static_cast<float>(float16{0.333251953125F}) == 0.333251953125F);
  static_assert(bfloat16{1.0F}.bits == 0x3f80 && static_cast<float>(bfloat16{-2.0F}) == -2.0F);
}

TEST_CASE_TEMPLATE("every element has its format's value as a float, and survives the way back", E, bfloat16, float16) {
  constexpr std::uint32_t quiet = 1U << (format<E>.fraction_bits - 1);
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    CAPTURE(bits);
    E element;
    element.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(element);
    REQUIRE(std::signbit(value) == (bits >= 0x8000U));
    if (is_nan<E>(bits)) {
      REQUIRE(std::isnan(value));
      REQUIRE(E{value}.bits == (bits | quiet));  // a NaN comes back quiet
      continue;
    }
    const double expected = (bits & 0x7fffU) == infinity_of(format<E>) ? std::numeric_limits<double>::infinity()
                                                                       : magnitude_of(bits, format<E>);
    REQUIRE(std::fabs(static_cast<double>(value)) == expected);
    REQUIRE(E{value}.bits == bits);
  }
}

TEST_CASE_TEMPLATE("rounding is to nearest, ties to even; NaN stays NaN", E, bfloat16, float16) {
  for (const float value : telling_floats<E>()) {
    CAPTURE(std::bit_cast<std::uint32_t>(value));
    const std::uint16_t rounded = E{value}.bits;
    if (!std::isnan(value)) {
      REQUIRE(rounded == nearest_by_distance<E>(value));
      continue;
    }
    const std::uint32_t kept = std::bit_cast<std::uint32_t>(value) >> (23 - format<E>.fraction_bits);
    const std::uint32_t fraction = (1U << format<E>.fraction_bits) - 1;
    REQUIRE(is_nan<E>(rounded));
    REQUIRE((rounded & fraction) == ((kept & fraction) | (1U << (format<E>.fraction_bits - 1))));
    REQUIRE((rounded >= 0x8000U) == std::signbit(value));
  }
}

TEST_CASE_TEMPLATE("overflow rounds to infinity and not to NaN", E, bfloat16, float16) {
  const std::uint32_t infinity = infinity_of(format<E>);
  CHECK(E{std::numeric_limits<float>::max()}.bits == infinity);
  CHECK(E{-std::numeric_limits<float>::max()}.bits == (0x8000U | infinity));
  CHECK(E{std::numeric_limits<float>::infinity()}.bits == infinity);
}

TEST_CASE_TEMPLATE("bulk narrowing equals the element's own rounding, in every instruction set", E, bfloat16, float16) {
  const std::vector<float> values = telling_floats<E>();
  for (const InstructionSet set : instruction_sets()) {
    CAPTURE(zerospan::to_string(set));
    std::vector<E> narrow(values.size());
    zerospan::from_float(values.data(), zerospan::ElementTraits<E>::type, reinterpret_cast<std::byte*>(narrow.data()),
                         values.size(), set);
    for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(narrow[i].bits == E{values[i]}.bits);
  }
}

TEST_CASE_TEMPLATE("bulk widening equals the element's own, in every instruction set, NaN payloads included", E,
                   bfloat16, float16) {
  std::vector<E> narrow(0x10000);
  for (std::size_t bits = 0; bits < narrow.size(); ++bits) narrow[bits].bits = static_cast<std::uint16_t>(bits);
  for (const InstructionSet set : instruction_sets()) {
    CAPTURE(zerospan::to_string(set));
    std::vector<std::uint32_t> wide(narrow.size());
    zerospan::to_float(zerospan::ElementTraits<E>::type, reinterpret_cast<const std::byte*>(narrow.data()),
                       reinterpret_cast<float*>(wide.data()), narrow.size(), set);
    for (std::size_t i = 0; i < narrow.size(); ++i) {
      const auto value = static_cast<float>(narrow[i]);
      REQUIRE(wide[i] == std::bit_cast<std::uint32_t>(value));
    }
  }
}

TEST_CASE_TEMPLATE("bulk conversions of every length touch exactly their elements", E, bfloat16, float16) {
  constexpr ElementType type = zerospan::ElementTraits<E>::type;
  std::mt19937_64 random{7};
  for (const InstructionSet set : instruction_sets()) {
    for (std::size_t n = 0; n <= 41; ++n) {
      CAPTURE(n);
      std::vector<E> narrow(n + 1);
      for (E& element : narrow) element.bits = static_cast<std::uint16_t>(random() & 0x7aff);  // no NaN
      std::vector<float> wide(n + 1, -1.0F);
      zerospan::to_float(type, reinterpret_cast<const std::byte*>(narrow.data()), wide.data(), n, set);
      CHECK(wide[n] == -1.0F);
      for (std::size_t i = 0; i < n; ++i) REQUIRE(wide[i] == static_cast<float>(narrow[i]));
      std::vector<std::uint16_t> back(n + 1, 0xabcd);
      zerospan::from_float(wide.data(), type, reinterpret_cast<std::byte*>(back.data()), n, set);
      CHECK(back[n] == 0xabcd);
      for (std::size_t i = 0; i < n; ++i) REQUIRE(back[i] == narrow[i].bits);
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
