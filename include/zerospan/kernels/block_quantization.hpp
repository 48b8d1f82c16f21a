/// @file
/// Block quantization: elements to and from codes of 8 or 4 bits, and sums of such codes, on a stream of the host. A
/// device's stream type has its own overloads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/quantized_block.hpp>

namespace zerospan::inline v0 {

namespace detail {

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
inline void encode_blocks(StreamRef, ElementType element, const std::byte* from, QuantizedType type, std::byte* to,
                          std::size_t elements) noexcept {
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
inline void sum_blocks(StreamRef, std::span<const std::byte* const> inputs, QuantizedType type, ElementType element,
                       std::byte* to, std::size_t elements) noexcept {
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

}  // namespace zerospan::inline v0
