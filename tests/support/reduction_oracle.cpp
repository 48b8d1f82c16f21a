#include "support/reduction_oracle.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <zerospan/core/element.hpp>
#include <zerospan/core/philox.hpp>

namespace zerospan_test {

using zerospan::bfloat16;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::float16;

float value(int rank, std::size_t i) {
  const auto words = zerospan::philox(7, static_cast<std::uint64_t>(rank), i);
  const int exponent = 127 - 12 + static_cast<int>(words[0] % 24);
  return std::bit_cast<float>((words[1] & 0x807fffffU) | (static_cast<std::uint32_t>(exponent) << 23));
}

float rounded(float x, ElementType type) {
  if (type == ElementType::float32) return x;
  return type == ElementType::bfloat16 ? static_cast<float>(bfloat16{x}) : static_cast<float>(float16{x});
}

void append(Buffer& buffer, float x, ElementType type) {
  std::array<std::byte, 4> bytes{};
  if (type == ElementType::float32) {
    std::memcpy(bytes.data(), &x, 4);
  } else {
    const std::uint16_t narrow = type == ElementType::bfloat16 ? bfloat16{x}.bits : float16{x}.bits;
    std::memcpy(bytes.data(), &narrow, 2);
  }
  buffer.insert(buffer.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(element_bytes(type)));
}

Buffer input_of(int rank, std::size_t elements, ElementType type) {
  Buffer buffer;
  for (std::size_t i = 0; i < elements; ++i) append(buffer, value(rank, i), type);
  return buffer;
}

Buffer oracle(int ranks, std::size_t first, std::size_t elements, Types types) {
  Buffer buffer;
  for (std::size_t i = first; i < first + elements; ++i) {
    float sum = rounded(value(0, i), types.input);
    for (int rank = 1; rank < ranks; ++rank) sum += rounded(value(rank, i), types.input);
    append(buffer, sum, types.output);
  }
  return buffer;
}

}  // namespace zerospan_test
