/// @file
/// The element types that tensors may have, and how a host's own type says which one it is.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// The storage formats of parameters and gradients.
enum class ElementType : std::uint8_t { float32, bfloat16 };

/// Bytes of one element.
constexpr std::size_t element_bytes(ElementType type) noexcept { return type == ElementType::float32 ? 4 : 2; }

constexpr const char* to_string(ElementType type) noexcept {
  return type == ElementType::float32 ? "float32" : "bfloat16";
}

/// The upper half of an IEEE binary32; conversion rounds to nearest, ties to even, and keeps NaN.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  constexpr explicit bfloat16(float value) noexcept : bits{round(std::bit_cast<std::uint32_t>(value))} {}
  constexpr explicit operator float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

  /// The bits of the bfloat16 nearest to the binary32 with the bits `word`.
  static constexpr std::uint16_t round(std::uint32_t word) noexcept {
    const bool is_nan = (word & 0x7fffffffU) > 0x7f800000U;
    const std::uint32_t rounded = word + 0x7fffU + ((word >> 16) & 1U);
    return static_cast<std::uint16_t>(is_nan ? (word >> 16) | 0x40U : rounded >> 16);
  }
};

/// Says which storage format `E` is. A host framework specializes it for its own 16-bit type:
/// @code
/// template <> struct zerospan::ElementTraits<my::bf16> { static constexpr auto type = zerospan::ElementType::bfloat16;
/// };
/// @endcode
template <class E>
struct ElementTraits;

template <>
struct ElementTraits<float> {
  static constexpr ElementType type = ElementType::float32;
};

template <>
struct ElementTraits<bfloat16> {
  static constexpr ElementType type = ElementType::bfloat16;
};

/// A type whose objects are stored in one of the known formats.
///
/// @concept
/// - `ElementTraits<E>::type` names the format;
/// - `E` is trivially copyable and exactly as large as the format.
template <class E>
concept Element = std::is_trivially_copyable_v<E> && requires {
  { ElementTraits<E>::type } -> std::convertible_to<ElementType>;
  requires sizeof(E) == element_bytes(ElementTraits<E>::type);
};

static_assert(Element<float> && Element<bfloat16> && !Element<double>);

}  // namespace zerospan::inline v0
