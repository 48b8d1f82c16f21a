/// @file
/// Block quantization: elements to and from codes of 8 or 4 bits, and sums of such codes, on a stream of the host. A
/// device's stream type has its own overloads.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>

namespace zerospan::inline v0 {

/// What the elements of a block become: signed integers of so many bits.
enum class QuantizedType : std::uint8_t { int8, int4 };

constexpr const char* to_string(QuantizedType type) noexcept { return type == QuantizedType::int8 ? "int8" : "int4"; }

/// Elements that share a scale.
inline constexpr std::size_t quantized_block_elements = 256;

/// Bytes of an encoded block: its scale in fp32, then its codes. 260 of int8, 132 of int4.
constexpr std::size_t encoded_block_bytes(QuantizedType type) noexcept {
  return sizeof(float) + (type == QuantizedType::int8 ? quantized_block_elements : quantized_block_elements / 2);
}

/// Blocks of so many elements; the last one may be padded with zeros.
constexpr std::size_t quantized_blocks(std::size_t elements) noexcept {
  return (elements + quantized_block_elements - 1) / quantized_block_elements;
}

/// Bytes of so many elements when they are encoded.
constexpr std::size_t encoded_bytes(std::size_t elements, QuantizedType type) noexcept {
  return quantized_blocks(elements) * encoded_block_bytes(type);
}

namespace detail {

/// Codes are -largest_code, ..., largest_code.
constexpr float largest_code(QuantizedType type) noexcept { return type == QuantizedType::int8 ? 127.0F : 7.0F; }

/// The bits of |x|: ordered as the magnitudes are, and NaN above all of them.
constexpr std::uint32_t magnitude_bits(float x) noexcept { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffU; }

/// The scale of a block: 0 of zeros, NaN if anything in it is not finite, otherwise positive.
///
/// It has 16 significant bits, so that its product with a code is exact: adding the product to a sum gives the same
/// bits fused and not. It is rounded down, so that no product passes the largest finite float, and never subnormal.
/// @param largest The largest `magnitude_bits` in the block.
constexpr float block_scale(std::uint32_t largest, QuantizedType type) noexcept {
  constexpr std::uint32_t infinity = 0x7f800000U;
  constexpr std::uint32_t quiet_nan = 0x7fc00000U;
  constexpr std::uint32_t smallest_normal = 0x00800000U;
  if (largest == 0) return 0.0F;
  if (largest >= infinity) return std::bit_cast<float>(quiet_nan);
  const float exact = quotient(std::bit_cast<float>(largest), largest_code(type));
  const std::uint32_t rounded = std::bit_cast<std::uint32_t>(exact) & 0xffffff00U;
  return std::bit_cast<float>(rounded < smallest_normal ? smallest_normal : rounded);
}

/// Whether a block with this scale has codes other than zero.
constexpr bool has_codes(float scale) noexcept { return scale > 0.0F; }

/// x / scale rounded to the nearest integer, ties to even, of which the low bits are the code. `has_codes(scale)`.
constexpr std::uint32_t code_of(float x, float scale) noexcept {
  constexpr float unit_is_last_bit = 0x1.8p23F;
  return std::bit_cast<std::uint32_t>(quotient(x, scale) + unit_is_last_bit);
}

/// The code in the low four bits.
constexpr int nibble(std::uint32_t bits) noexcept { return static_cast<int>((bits & 0xfU) ^ 8U) - 8; }

/// Codes of int4 share a byte with those half a block further on: element j has the low bits of byte j, and element
/// j + nibble_distance the high bits.
inline constexpr std::size_t nibble_distance = quantized_block_elements / 2;

using BlockFloats = std::array<float, quantized_block_elements>;

template <QuantizedType Type>
using BlockCodes = std::array<std::uint8_t, encoded_block_bytes(Type) - sizeof(float)>;

template <QuantizedType Type>
void encode_block(const BlockFloats& values, std::byte* to) noexcept {
  std::uint32_t largest = 0;
  for (const float x : values) largest = std::max(largest, magnitude_bits(x));
  const float scale = block_scale(largest, Type);
  BlockCodes<Type> codes{};
  if (has_codes(scale)) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      std::uint32_t code = code_of(values[i], scale);
      if constexpr (Type == QuantizedType::int4) {
        code = (code & 0xfU) | code_of(values[i + nibble_distance], scale) << 4;
      }
      codes[i] = static_cast<std::uint8_t>(code);
    }
  }
  std::memcpy(to, &scale, sizeof scale);
  std::memcpy(to + sizeof scale, codes.data(), codes.size());
}

/// Calls `use(i, x)` with each element of a block.
template <QuantizedType Type, class Use>
void visit_block(const std::byte* from, Use use) noexcept {
  float scale = 0;
  BlockCodes<Type> codes;
  std::memcpy(&scale, from, sizeof scale);
  std::memcpy(codes.data(), from + sizeof scale, codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if constexpr (Type == QuantizedType::int8) {
      use(i, static_cast<float>(static_cast<std::int8_t>(codes[i])) * scale);
    } else {
      use(i, static_cast<float>(nibble(std::uint32_t{codes[i]})) * scale);
      use(i + nibble_distance, static_cast<float>(nibble(std::uint32_t{codes[i]} >> 4)) * scale);
    }
  }
}

template <QuantizedType Type>
void encode_blocks(ElementType element, const std::byte* from, std::byte* to, std::size_t elements) noexcept {
  BlockFloats values;
  for (std::size_t first = 0; first < elements; first += values.size()) {
    const std::size_t count = std::min(values.size(), elements - first);
    to_float(element, from + first * element_bytes(element), values.data(), count);
    std::fill(values.begin() + static_cast<std::ptrdiff_t>(count), values.end(), 0.0F);
    encode_block<Type>(values, to);
    to += encoded_block_bytes(Type);
  }
}

template <QuantizedType Type>
void sum_blocks(std::span<const std::byte* const> inputs, ElementType element, std::byte* to,
                std::size_t elements) noexcept {
  BlockFloats sums;
  std::size_t block = 0;
  for (std::size_t first = 0; first < elements; first += sums.size()) {
    visit_block<Type>(inputs[0] + block, [&](std::size_t i, float x) { sums[i] = x; });
    for (const std::byte* const input : inputs.subspan(1)) {
      visit_block<Type>(input + block, [&](std::size_t i, float x) { sums[i] += x; });
    }
    from_float(sums.data(), element, to + first * element_bytes(element), std::min(sums.size(), elements - first));
    block += encoded_block_bytes(Type);
  }
}

}  // namespace detail

/// Encodes elements by symmetric block quantization (ZeRO++, arXiv 2306.10209, section 3): each 256 of them share the
/// scale max|x| / 127 (int8) or max|x| / 7 (int4), and become the integers nearest to x / scale, ties to even.
///
/// What is decoded differs from x by at most (1/2 + 2^-17) * scale, and then by its rounding to the element type. The
/// scale is rounded down to 16 significant bits; it is at least 2^-126, so that magnitudes up to 2^-127 become
/// zero. A block of zeros has scale 0. A block with an infinity or a NaN anywhere is NaN
/// everywhere when it is decoded. A zero loses its sign.
///
/// @param from `elements` elements of type `element`, aligned to their type.
/// @param to `encoded_bytes(elements, type)` bytes, aligned to 4, which do not overlap `from`.
/// @note On the calling thread it is done when it returns; on a device's stream it is enqueued.
void encode_blocks(std::same_as<StreamRef> auto, ElementType element, const std::byte* from, QuantizedType type,
                   std::byte* to, std::size_t elements) noexcept {
  if (type == QuantizedType::int8) {
    detail::encode_blocks<QuantizedType::int8>(element, from, to, elements);
  } else {
    detail::encode_blocks<QuantizedType::int4>(element, from, to, elements);
  }
}

/// `to[i] = round(((inputs[0][i] + inputs[1][i]) + inputs[2][i]) + ...)` of decoded elements, each addition in fp32,
/// rounded once at the end.
/// @param inputs One pointer a rank, in rank order; at least one: what `encode_blocks` made of `elements` elements.
/// @param to Overlaps no input.
/// @note As `encode_blocks`.
void sum_blocks(std::same_as<StreamRef> auto, std::span<const std::byte* const> inputs, QuantizedType type,
                ElementType element, std::byte* to, std::size_t elements) noexcept {
  if (type == QuantizedType::int8) {
    detail::sum_blocks<QuantizedType::int8>(inputs, element, to, elements);
  } else {
    detail::sum_blocks<QuantizedType::int4>(inputs, element, to, elements);
  }
}

/// Decodes what `encode_blocks` made of `elements` elements of the same or another element type: the sum of one.
/// @note As `encode_blocks`.
template <class Stream>
void decode_blocks(Stream&& stream, const std::byte* from, QuantizedType type, ElementType element, std::byte* to,
                   std::size_t elements) {
  sum_blocks(stream, std::span<const std::byte* const>{&from, 1}, type, element, to, elements);
}

namespace detail {

/// A fixed piece of device memory, cut into areas of equal size.
class QuantizationScratch {
 public:
  QuantizationScratch() = default;
  explicit QuantizationScratch(Allocation memory) noexcept : memory_{std::move(memory)} {}

  std::byte* data() const noexcept { return memory_.data(); }

  /// Elements, whole blocks, that each of `areas` areas holds when they are encoded.
  /// @throws ConfigurationError if that is not one block.
  std::size_t elements_of(std::size_t areas, QuantizedType type) const {
    const std::size_t blocks = memory_.bytes() / areas / encoded_block_bytes(type);
    if (blocks > 0) return blocks * quantized_block_elements;
    throw_configuration_error("the scratch memory of quantized collectives, " + std::to_string(memory_.bytes()) +
                              " bytes, holds no block of " + to_string(type) +
                              " for every rank: " + std::to_string(areas * encoded_block_bytes(type)) + " bytes would");
  }

 private:
  Allocation memory_;
};

}  // namespace detail

}  // namespace zerospan::inline v0
