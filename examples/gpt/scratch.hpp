/// @file
/// Memory in which 16-bit weights and gradients are seen as the scalars of the computation.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>

#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>

#include "tensor.hpp"
#include "zerospan_adapter.hpp"

namespace gpt {

/// Views tensors of `E` as tensors of `Scalar<E>`: the tensors themselves where the types are equal, and else converted
/// copies in memory that the next use takes over.
template <class E>
class Scratch {
 public:
  using S = Scalar<E>;

  /// @param elements The most that is ever viewed at once.
  explicit Scratch(std::size_t elements)
      : memory_{std::is_same_v<E, S> ? nullptr : std::make_unique_for_overwrite<S[]>(elements)} {}

  /// The tensors of a group of leases, to be read until the next use of the scratch memory.
  template <class... Leases>
  std::array<Tensor<const S>, sizeof...(Leases)> widen(const std::tuple<Leases...>& leases) {
    used_ = 0;
    return std::apply(
        [this](const auto&... lease) {
          return std::array<Tensor<const S>, sizeof...(Leases)>{this->widen_one(*lease)...};
        },
        leases);
  }

  /// One tensor, likewise.
  Tensor<const S> widen(Tensor<E> tensor) {
    used_ = 0;
    return widen_one(tensor);
  }

  /// Has `write` fill a tensor of scalars, and rounds it into `target`.
  template <class Write>
  void fill(Tensor<E> target, Write write) {
    if constexpr (std::is_same_v<E, S>) {
      write(target);
    } else {
      const Tensor<S> wide{memory_.get(), target.rows, target.columns};
      write(wide);
      zerospan::from_float(wide.data, type, reinterpret_cast<std::byte*>(target.data), wide.size());
    }
  }

 private:
  static constexpr zerospan::ElementType type = zerospan::ElementTraits<E>::type;

  Tensor<const S> widen_one(Tensor<E> tensor) {
    if constexpr (std::is_same_v<E, S>) {
      return tensor;
    } else {
      const Tensor<S> wide{memory_.get() + used_, tensor.rows, tensor.columns};
      used_ += wide.size();
      zerospan::to_float(type, reinterpret_cast<const std::byte*>(tensor.data), wide.data, wide.size());
      return wide;
    }
  }

  std::unique_ptr<S[]> memory_;
  std::size_t used_ = 0;
};

}  // namespace gpt
