#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/convert.hpp>

namespace {

using zerospan::calling_thread;
using zerospan::decode_blocks;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::encode_blocks;
using zerospan::encoded_block_bytes;
using zerospan::encoded_bytes;
using zerospan::quantized_block_elements;
using zerospan::QuantizedType;
using Bytes = std::vector<std::byte>;
using Floats = std::vector<float>;

constexpr std::array element_types{ElementType::float32, ElementType::bfloat16, ElementType::float16};
constexpr std::array quantized_types{QuantizedType::int8, QuantizedType::int4};
constexpr std::array<std::size_t, 10> lengths{1, 2, 127, 128, 129, 255, 256, 257, 1024, 5003};
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

Bytes stored(const Floats& values, ElementType type) {
  Bytes bytes(values.size() * element_bytes(type));
  zerospan::from_float(values.data(), type, bytes.data(), values.size());
  return bytes;
}

Floats floats_of(const Bytes& bytes, ElementType type) {
  Floats values(bytes.size() / element_bytes(type));
  zerospan::to_float(type, bytes.data(), values.data(), values.size());
  return values;
}

Bytes encoded(const Bytes& elements, ElementType element, QuantizedType type) {
  const std::size_t n = elements.size() / element_bytes(element);
  Bytes codes(encoded_bytes(n, type));
  encode_blocks(calling_thread, element, elements.data(), type, codes.data(), n);
  return codes;
}

Bytes decoded(const Bytes& codes, QuantizedType type, ElementType element, std::size_t n) {
  Bytes elements(n * element_bytes(element));
  decode_blocks(calling_thread, codes.data(), type, element, elements.data(), n);
  return elements;
}

Floats round_trip(const Floats& values, QuantizedType type, ElementType element = ElementType::float32) {
  return floats_of(decoded(encoded(stored(values, element), element, type), type, element, values.size()), element);
}

float scale_of(const Bytes& codes, QuantizedType type, std::size_t block) {
  float scale = 0;
  std::memcpy(&scale, codes.data() + block * encoded_block_bytes(type), sizeof scale);
  return scale;
}

/// Finite numbers of an element type, those of a block over `octaves`, each block elsewhere in the range of the type;
/// zeros and subnormal numbers among them.
Floats random_values(std::size_t n, ElementType type, int octaves, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  std::uniform_real_distribution<float> mantissa{1.0F, 2.0F};
  const int lowest = type == ElementType::float16 ? -24 : -149;
  const int highest = type == ElementType::float16 ? 15 : 127;
  Floats values(n);
  int top = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (i % quantized_block_elements == 0) {
      top = lowest + static_cast<int>(random() % static_cast<unsigned>(highest - lowest + 1));
    }
    const int exponent = top - static_cast<int>(random() % static_cast<unsigned>(octaves));
    const float x = std::ldexp(mantissa(random), exponent);
    values[i] = random() % 16 == 0 ? 0.0F : random() % 2 == 0 ? -x : x;
  }
  Floats rounded = floats_of(stored(values, type), type);
  for (float& x : rounded) x = std::isfinite(x) ? x : 1.0F;
  return rounded;
}

double largest_code(QuantizedType type) { return type == QuantizedType::int8 ? 127 : 7; }

TEST_CASE("a block is a scale and its codes") {
  static_assert(encoded_bytes(0, QuantizedType::int8) == 0);
  static_assert(encoded_bytes(1, QuantizedType::int8) == 260);
  static_assert(encoded_bytes(256, QuantizedType::int8) == 256 + 4);
  static_assert(encoded_bytes(257, QuantizedType::int8) == 2 * 260);
  static_assert(encoded_bytes(256, QuantizedType::int4) == 128 + 4);
  static_assert(encoded_bytes(1024, QuantizedType::int4) == 4 * 132);
}

TEST_CASE("the format: elements as codes, of int4 two in a byte") {
  Floats values(quantized_block_elements, 0.0F);
  values[0] = 7.0F;
  values[1] = -3.0F;
  values[128] = -7.0F;
  values[129] = 2.5F;  // a tie, to even
  values[130] = 3.5F;
  const Bytes codes = encoded(stored(values, ElementType::float32), ElementType::float32, QuantizedType::int4);
  CHECK(scale_of(codes, QuantizedType::int4, 0) == 1.0F);
  CHECK(codes[4] == std::byte{0x97});
  CHECK(codes[5] == std::byte{0x2d});
  CHECK(codes[6] == std::byte{0x40});
  CHECK(std::all_of(codes.begin() + 7, codes.end(), [](std::byte b) { return b == std::byte{0}; }));

  values = Floats(quantized_block_elements, 0.0F);
  values[0] = -127.0F;
  values[1] = 2.5F;
  values[255] = 127.0F;
  const Bytes wide = encoded(stored(values, ElementType::float32), ElementType::float32, QuantizedType::int8);
  CHECK(scale_of(wide, QuantizedType::int8, 0) == 1.0F);
  CHECK(wide[4] == std::byte{0x81});
  CHECK(wide[5] == std::byte{2});
  CHECK(wide[259] == std::byte{127});
}

TEST_CASE("every element keeps to the stated bound, and its rounding to the element type") {
  std::uint64_t seed = 0;
  for (const QuantizedType type : quantized_types) {
    for (const ElementType element : element_types) {
      for (const std::size_t n : lengths) {
        for (const int octaves : {1, 6, 24}) {
          CAPTURE(to_string(type));
          CAPTURE(to_string(element));
          CAPTURE(n);
          const Floats values = random_values(n, element, octaves, ++seed);
          const Bytes codes = encoded(stored(values, element), element, type);
          const Floats exact = floats_of(decoded(codes, type, ElementType::float32, n), ElementType::float32);
          const Bytes rounded = decoded(codes, type, element, n);
          std::size_t outside = 0;
          for (std::size_t i = 0; i < n; ++i) {
            const double scale = scale_of(codes, type, i / quantized_block_elements);
            const double error = std::abs(double{exact[i]} - double{values[i]});
            outside += error <= (0.5 + 0x1p-17) * scale ? 0U : 1U;
          }
          CHECK(outside == 0);
          CHECK(rounded == stored(exact, element));
          for (const float x : floats_of(rounded, element)) REQUIRE(std::isfinite(x));
        }
      }
    }
  }
}

TEST_CASE("the scale is the largest magnitude divided by the largest code, to 16 bits") {
  for (const QuantizedType type : quantized_types) {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      const Floats values = random_values(quantized_block_elements, ElementType::float32, 8, seed);
      const Bytes codes = encoded(stored(values, ElementType::float32), ElementType::float32, type);
      double largest = 0;
      for (const float x : values) largest = std::max(largest, double{std::abs(x)});
      const double scale = scale_of(codes, type, 0);
      CHECK(scale >= std::min(largest / largest_code(type), 0x1p-126) * (1 - 0x1p-14));
      CHECK(scale <= std::max(largest / largest_code(type) * (1 + 0x1p-24), 0x1p-126));
      CHECK((std::bit_cast<std::uint32_t>(static_cast<float>(scale)) & 0xffU) == 0);
    }
  }
}

TEST_CASE("a product of a code with the scale is exact: fused into a sum it gives the same bits") {
  std::mt19937_64 random{1};
  for (int i = 0; i < 1000; ++i) {
    const auto largest = static_cast<std::uint32_t>(random() % 0x7f7fffffU + 1);
    for (const QuantizedType type : quantized_types) {
      const float scale = zerospan::detail::block_scale(largest, type);
      for (double code = 0; code <= largest_code(type); ++code) {
        REQUIRE(double{static_cast<float>(code) * scale} == code * double{scale});
      }
    }
  }
}

TEST_CASE("the largest and the smallest numbers") {
  const float most = std::numeric_limits<float>::max();
  const float least = std::numeric_limits<float>::denorm_min();
  for (const QuantizedType type : quantized_types) {
    const Floats extremes = round_trip({most, -most, 1.0F, least}, type);
    CHECK(extremes[0] >= most * (1 - 0x1p-14F));
    CHECK(std::isfinite(extremes[0]));
    CHECK(extremes[1] == -extremes[0]);
    CHECK(extremes[2] == 0.0F);
    CHECK(round_trip({least, -least}, type) == Floats{0.0F, -0.0F});
    CHECK(round_trip({0x1p-126F, 0x1p-127F}, type) == Floats{0x1p-126F, 0.0F});
    CHECK(round_trip({65504.0F, -65504.0F}, type, ElementType::float16) == Floats{65504.0F, -65504.0F});
  }
}

TEST_CASE("a block of zeros has scale zero, and zeros in other blocks stay zero") {
  for (const QuantizedType type : quantized_types) {
    for (const ElementType element : element_types) {
      const Bytes zeros = encoded(stored(Floats(300, -0.0F), element), element, type);
      CHECK(zeros == Bytes(zeros.size()));
      Floats values(300, 0.0F);
      values[7] = 3.0F;
      const Floats back = round_trip(values, type, element);
      for (std::size_t i = 0; i < values.size(); ++i) CHECK((back[i] == 0.0F) == (i != 7));
    }
  }
}

TEST_CASE("what is not finite makes its block NaN, and no other") {
  for (const QuantizedType type : quantized_types) {
    for (const ElementType element : element_types) {
      for (const float bad : {nan, infinity, -infinity}) {
        for (const std::size_t at : {0U, 100U, 200U, 255U}) {
          Floats values = random_values(1000, element, 8, at);
          values[256 + at] = bad;
          const Floats back = round_trip(values, type, element);
          for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::isnan(back[i]) == (i / 256 == 1));
        }
      }
    }
  }
}

TEST_CASE("a tail is as good as a whole block, and nothing past it is touched") {
  for (const QuantizedType type : quantized_types) {
    for (const ElementType element : element_types) {
      const Bytes whole = stored(random_values(512, element, 8, 3), element);
      Bytes tail = whole;
      tail.resize(300 * element_bytes(element));
      Bytes padded = tail;
      padded.resize(512 * element_bytes(element));
      CHECK(encoded(tail, element, type) == encoded(padded, element, type));

      Bytes target(tail.size() + 8, std::byte{0xee});
      const Bytes codes = encoded(tail, element, type);
      decode_blocks(calling_thread, codes.data(), type, element, target.data(), 300);
      CHECK(std::all_of(target.end() - 8, target.end(), [](std::byte b) { return b == std::byte{0xee}; }));
    }
  }
}

TEST_CASE("a sum adds what is decoded in fp32, in rank order, and rounds once") {
  constexpr std::size_t n = 700;
  constexpr std::size_t ranks = 5;
  std::size_t differing = 0;
  for (const QuantizedType type : quantized_types) {
    for (const ElementType element : element_types) {
      std::vector<Bytes> codes;
      std::vector<const std::byte*> inputs;
      Floats expected(n);
      Floats backward(n);
      std::vector<Floats> terms;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        std::mt19937_64 random{rank};
        std::normal_distribution<float> normal;
        Floats values(n);
        for (float& x : values) x = std::ldexp(normal(random), static_cast<int>(4 * rank) - 8);
        codes.push_back(encoded(stored(values, ElementType::bfloat16), ElementType::bfloat16, type));
        terms.push_back(floats_of(decoded(codes.back(), type, ElementType::float32, n), ElementType::float32));
      }
      for (const Bytes& c : codes) inputs.push_back(c.data());
      for (std::size_t i = 0; i < n; ++i) {
        expected[i] = terms[0][i];
        for (std::size_t rank = 1; rank < ranks; ++rank) expected[i] += terms[rank][i];
        for (std::size_t rank = ranks; rank-- > 0;) backward[i] += terms[rank][i];
        differing += expected[i] != backward[i] ? 1U : 0U;
      }
      Bytes sum(n * element_bytes(element));
      zerospan::sum_blocks(calling_thread, inputs, type, element, sum.data(), n);
      CHECK(sum == stored(expected, element));
    }
  }
  CHECK(differing > 100);  // the order shows
}

}  // namespace
