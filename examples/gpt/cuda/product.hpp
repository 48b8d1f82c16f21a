/// @file
/// A matrix product as it is asked of a GPU: row-major, possibly a batch of equal ones.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "../factor.hpp"
#include "../tensor.hpp"
#include "cublas.hpp"

namespace gpt::cuda {

/// A matrix in row-major order, or several of the same shape.
struct Operand {
  template <class E>
  Operand(Tensor<E> matrix, std::size_t distance = 0)
      : data{matrix.data},
        type{blas_type<std::remove_const_t<E>>},
        rows{matrix.rows},
        columns{matrix.columns},
        stride{matrix.stride},
        batch_stride{distance} {}

  const void* data;
  cudaDataType_t type;
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;        ///< Elements from one row to the next.
  std::size_t batch_stride;  ///< Elements from one matrix to the next.
};

/// result = scale a b + addend + bias; all in float, rounded once.
struct Product {
  Operand a;
  Order order_a;
  Operand b;
  Order order_b;
  Operand result;
  std::size_t batch = 1;
  float scale = 1;
  const void* addend = nullptr;   ///< Of the result's type and shape; may be the result itself. nullptr: none.
  std::size_t addend_stride = 0;  ///< Elements from one of its rows to the next.
  const void* bias = nullptr;     ///< Of the result's type, one for each column. nullptr: none.
};

/// What products have in common that are computed by the same algorithm.
using ProductKey = std::array<std::uint64_t, 20>;

/// The alignment of an address, as far as leases give the same for equal programs: what is computed where, and so its
/// rounding, does not depend on where a parameter happens to lie.
inline std::uint32_t alignment_of(const void* address) {
  constexpr std::uintptr_t promised = 64;
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | promised;
  return std::uint32_t{1} << std::countr_zero(bits);
}

inline ProductKey key_of(const Product& p) {
  const auto orders = static_cast<std::uint64_t>(p.order_a) * 2 + static_cast<std::uint64_t>(p.order_b);
  const auto types = static_cast<std::uint64_t>(p.a.type) << 32 | static_cast<std::uint64_t>(p.result.type);
  const auto extras = std::uint64_t{p.addend != nullptr} * 2 + std::uint64_t{p.bias != nullptr};
  return {p.a.rows,
          p.a.columns,
          p.a.stride,
          p.a.batch_stride,
          p.b.rows,
          p.b.columns,
          p.b.stride,
          p.b.batch_stride,
          p.result.rows,
          p.result.columns,
          p.result.stride,
          p.result.batch_stride,
          p.batch,
          p.addend_stride,
          orders,
          types,
          extras,
          std::uint64_t{alignment_of(p.a.data)} << 32 | alignment_of(p.b.data),
          std::uint64_t{alignment_of(p.result.data)} << 32 | (p.addend ? alignment_of(p.addend) : 0),
          p.bias ? alignment_of(p.bias) : 0};
}

}  // namespace gpt::cuda
