/// @file
/// What a safetensors file says of a tensor: its name, its element type and its shape.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>

namespace zerospan::inline v0 {

/// The element types of the format, those of `safetensors` 0.8.
enum class SafetensorsType : std::uint8_t {
  boolean,
  float4,
  float6_e2m3,
  float6_e3m2,
  uint8,
  int8,
  float8_e5m2,
  float8_e4m3,
  float8_e8m0,
  float8_e4m3fnuz,
  float8_e5m2fnuz,
  int16,
  uint16,
  float16,
  bfloat16,
  int32,
  uint32,
  float32,
  complex64,
  float64,
  int64,
  uint64
};

namespace detail {

struct SafetensorsTypeName {
  std::string_view name;
  std::uint64_t bits;  ///< Of one element.
};

/// By the enumerators' values.
inline constexpr std::array<SafetensorsTypeName, 22> safetensors_types{
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
     {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};

}  // namespace detail

/// The type's name in the format ("BF16").
constexpr std::string_view to_string(SafetensorsType type) noexcept {
  return detail::safetensors_types[static_cast<std::size_t>(type)].name;
}

/// Bits of one element; fewer than eight of some types, which are packed.
constexpr std::uint64_t element_bits(SafetensorsType type) noexcept {
  return detail::safetensors_types[static_cast<std::size_t>(type)].bits;
}

/// The type that the format calls so, if there is one.
constexpr std::optional<SafetensorsType> safetensors_type(std::string_view name) noexcept {
  const auto found = std::ranges::find(detail::safetensors_types, name, &detail::SafetensorsTypeName::name);
  if (found == detail::safetensors_types.end()) return std::nullopt;
  return static_cast<SafetensorsType>(found - detail::safetensors_types.begin());
}

constexpr SafetensorsType safetensors_type(ElementType type) noexcept {
  switch (type) {
    case ElementType::float32:
      return SafetensorsType::float32;
    case ElementType::bfloat16:
      return SafetensorsType::bfloat16;
    case ElementType::float16:
      break;
  }
  return SafetensorsType::float16;
}

/// The storage format of parameters that `type` is, if it is one.
constexpr std::optional<ElementType> element_type(SafetensorsType type) noexcept {
  switch (type) {
    case SafetensorsType::float32:
      return ElementType::float32;
    case SafetensorsType::bfloat16:
      return ElementType::bfloat16;
    case SafetensorsType::float16:
      return ElementType::float16;
    default:
      return std::nullopt;
  }
}

/// A tensor as a writer declares it.
struct SafetensorsTensor {
  std::string name;  ///< UTF-8.
  SafetensorsType type = SafetensorsType::float32;
  std::vector<std::uint64_t> shape{};  ///< Extents, slowest first; none for a scalar. An extent may be zero.

  friend bool operator==(const SafetensorsTensor&, const SafetensorsTensor&) = default;
};

/// A tensor that rests in a file.
struct StoredSafetensorsTensor : SafetensorsTensor {
  std::uint64_t elements = 0;
  std::uint64_t offset = 0;  ///< In the file, of its first byte.
  std::uint64_t bytes = 0;

  friend bool operator==(const StoredSafetensorsTensor&, const StoredSafetensorsTensor&) = default;
};

namespace detail {

/// `a * b`, or nothing where std::uint64_t does not count so far.
constexpr std::optional<std::uint64_t> checked_product(std::uint64_t a, std::uint64_t b) noexcept {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
  return a * b;
}

/// The product of a shape's extents, or nothing where it is past std::uint64_t.
constexpr std::optional<std::uint64_t> elements_of(const std::vector<std::uint64_t>& shape) noexcept {
  std::optional<std::uint64_t> elements = 1;
  for (const std::uint64_t extent : shape) {
    elements = checked_product(*elements, extent);
    if (!elements) break;
  }
  return elements;
}

/// "F32 of shape [2, 3]".
inline std::string describe(const SafetensorsTensor& tensor) {
  std::string text = std::string{to_string(tensor.type)} + " of shape [";
  constexpr std::size_t most_shown = 8;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (i > 0) text += ", ";
    if (i == most_shown) return text + "...]";
    text += std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

}  // namespace detail

}  // namespace zerospan::inline v0
