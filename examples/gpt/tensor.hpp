/// @file
/// The example's own tensor and 16-bit types: what a framework that never heard of zerospan would have.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace gpt {

/// The upper half of a float.
struct BFloat16 {
  std::uint16_t bits;
};

inline float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

/// Rounds to nearest, ties to even; NaN stays NaN.
inline BFloat16 to_bfloat16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (word + 0x7FFFU + ((word >> 16) & 1U)) >> 16;
  const std::uint32_t quiet_nan = (word >> 16) | 0x40U;
  return {static_cast<std::uint16_t>((word & 0x7FFFFFFFU) > 0x7F800000U ? quiet_nan : rounded)};
}

/// IEEE binary16.
struct Float16 {
  std::uint16_t bits;
};

inline float to_float(Float16 value) {
  const std::uint32_t sign = (value.bits & 0x8000U) << 16;
  const std::uint32_t magnitude = value.bits & 0x7FFFU;
  const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24F);
  const std::uint32_t normal = (magnitude << 13) + (112U << 23);
  const std::uint32_t special = (magnitude << 13) | 0x7F800000U | (magnitude > 0x7C00U ? 0x400000U : 0U);
  return std::bit_cast<float>(sign | (magnitude < 0x400U ? subnormal : magnitude < 0x7C00U ? normal : special));
}

/// Rounds to nearest, ties to even; NaN stays NaN.
inline Float16 to_float16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = word & 0x7FFFFFFFU;
  const std::uint32_t rounded = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  const std::uint32_t finite = magnitude < 0x38800000U ? subnormal : rounded;
  const std::uint32_t quiet_nan = 0x7E00U | ((magnitude >> 13) & 0x3FFU);
  const std::uint32_t bits = magnitude > 0x7F800000U ? quiet_nan : magnitude < 0x47800000U ? finite : 0x7C00U;
  return {static_cast<std::uint16_t>(((word >> 16) & 0x8000U) | bits)};
}

/// The 16-bit number nearest to `value`.
template <class E>
E narrow(float value) {
  if constexpr (std::is_same_v<E, BFloat16>) {
    return to_bfloat16(value);
  } else {
    return to_float16(value);
  }
}

/// A matrix in row-major order, or a vector as a matrix of one row, over storage that somebody else owns.
template <class E>
struct Tensor {
  using element_type = E;

  E* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = columns;  ///< Elements from one row to the next.

  constexpr std::size_t size() const { return rows * columns; }
  constexpr E* row(std::size_t r) const { return data + r * stride; }

  /// The part that starts at column `first`.
  constexpr Tensor column_range(std::size_t first, std::size_t count) const {
    return {data + first, rows, count, stride};
  }
  constexpr Tensor row_range(std::size_t first, std::size_t count) const {
    return {row(first), count, columns, stride};
  }

  template <std::same_as<const E> Const>
  requires(!std::is_const_v<E>) constexpr operator Tensor<Const>() const { return {data, rows, columns, stride}; }
};

/// The columns of a range of `first` and `count`.
template <class E, class Range>
Tensor<E> columns(Tensor<E> matrix, const Range& range) {
  return matrix.column_range(range.first, range.count);
}

/// An operand that is only read; it takes no part in deducing the scalar, so that a `Tensor<S>` converts.
template <class S>
using Input = std::type_identity_t<Tensor<const S>>;

/// The type that a model whose weights are `E` computes in.
template <class E>
using Scalar = std::conditional_t<sizeof(E) == sizeof(std::uint16_t), float, E>;

}  // namespace gpt
