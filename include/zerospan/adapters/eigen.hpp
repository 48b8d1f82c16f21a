/// @file
/// Eigen::Map as a host tensor. Needs Eigen 3.
#pragma once

#include <cstddef>
#include <new>
#include <string>
#include <type_traits>

#include <Eigen/Core>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace zerospan::inline v0 {

template <>
struct ElementTraits<Eigen::bfloat16> {
  static constexpr ElementType type = ElementType::bfloat16;
};

template <>
struct ElementTraits<Eigen::half> {
  static constexpr ElementType type = ElementType::float16;
};

/// A matrix or vector that lies in memory as zerospan's tensors do: row-major, of a known element type.
template <class M>
concept EigenStorage =
    !std::is_const_v<M> && Element<typename M::Scalar> && (M::IsRowMajor != 0 || M::IsVectorAtCompileTime != 0);

/// A vector has all of a shape's elements; a matrix has the last extent as its columns, and the others, multiplied, as
/// its rows. Assigning a map copies elements: leases move maps by construction.
template <EigenStorage M>
struct TensorTraits<Eigen::Map<M>> {
  using element_type = typename M::Scalar;

  /// @throws ConfigurationError if an extent is fixed at compile time, and another.
  static Eigen::Map<M> unbound(const Shape& shape) {
    const std::size_t columns = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
    if constexpr (!M::IsVectorAtCompileTime) return mapped(nullptr, shape.elements() / columns, columns);
    if constexpr (M::RowsAtCompileTime == 1) return mapped(nullptr, 1, shape.elements());
    return mapped(nullptr, shape.elements(), 1);
  }

  /// A map is rebound by constructing another in its place ("Changing the mapped array", Eigen's manual).
  static void bind(Eigen::Map<M>& map, element_type* data) { new (&map) Eigen::Map<M>{data, map.rows(), map.cols()}; }

  static element_type* data(const Eigen::Map<M>& map) { return const_cast<element_type*>(map.data()); }

  /// What a lease for reading lends.
  static Eigen::Map<const M> constant(const Eigen::Map<M>& map) { return {map.data(), map.rows(), map.cols()}; }

 private:
  static Eigen::Map<M> mapped(element_type* data, std::size_t rows, std::size_t columns) {
    check("rows", M::RowsAtCompileTime, rows);
    check("columns", M::ColsAtCompileTime, columns);
    return {data, static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns)};
  }

  static void check(const char* what, int fixed, std::size_t extent) {
    if (fixed == Eigen::Dynamic || static_cast<std::size_t>(fixed) == extent) return;
    throw_configuration_error("an Eigen map of " + std::to_string(fixed) + " " + what + " was given " +
                              std::to_string(extent));
  }
};

static_assert(TypedTensor<Eigen::Map<Eigen::VectorXf>> && ReadOnlyTensor<Eigen::Map<Eigen::VectorXf>>);

}  // namespace zerospan::inline v0
