/// @file
/// The element types that tensors may have, and how a host's own type says which one it is.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/float16.hpp>

namespace zerospan::inline v0 {

/// The storage formats of parameters and gradients.
enum class ElementType : std::uint8_t { float32, bfloat16, float16 };

/// Bytes of one element.
constexpr std::size_t element_bytes(ElementType type) noexcept { return type == ElementType::float32 ? 4 : 2; }

constexpr const char* to_string(ElementType type) noexcept {
  switch (type) {
    case ElementType::float32:
      return "float32";
    case ElementType::bfloat16:
      return "bfloat16";
    case ElementType::float16:
      break;
  }
  return "float16";
}

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

template <>
struct ElementTraits<float16> {
  static constexpr ElementType type = ElementType::float16;
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

static_assert(Element<float> && Element<bfloat16> && Element<float16> && !Element<double>);

}  // namespace zerospan::inline v0
