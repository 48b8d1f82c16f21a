/// @file
/// The example's own tensor and 16-bit type: what a framework that never heard of zerospan would have.
#pragma once

#include <bit>
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

/// A matrix in row-major order, or a vector as a matrix of one row, over storage that somebody else owns.
template <class E>
struct Tensor {
  using element_type = E;

  E* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = columns;  ///< Elements from one row to the next.

  std::size_t size() const { return rows * columns; }
  E* row(std::size_t r) const { return data + r * stride; }

  /// The part that starts at column `first`.
  Tensor column_range(std::size_t first, std::size_t count) const { return {data + first, rows, count, stride}; }
  Tensor row_range(std::size_t first, std::size_t count) const { return {row(first), count, columns, stride}; }

  operator Tensor<const E>() const
    requires(!std::is_const_v<E>)
  {
    return {data, rows, columns, stride};
  }
};

/// An operand that is only read; it takes no part in deducing the scalar, so that a `Tensor<S>` converts.
template <class S>
using Input = std::type_identity_t<Tensor<const S>>;

/// The type that a model whose weights are `E` computes in.
template <class E>
using Scalar = std::conditional_t<std::is_same_v<E, BFloat16>, float, E>;

}  // namespace gpt
