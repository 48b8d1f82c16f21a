/// @file
/// Blocks of 256 elements as 8-bit or 4-bit codes and a scale: the format, and the arithmetic of an element.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <zerospan/core/config.hpp>
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

}  // namespace detail

}  // namespace zerospan::inline v0
