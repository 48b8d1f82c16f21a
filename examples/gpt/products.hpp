/// @file
/// How the model on the CPU multiplies matrices, of which the weights have their own type.
#pragma once

#include <cstddef>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>

#include "bf16_products.hpp"
#include "blas.hpp"
#include "factor.hpp"
#include "scratch.hpp"
#include "tensor.hpp"

namespace gpt {

/// In the scalars of the computation, by BLAS: weights of 16 bits are widened before, and gradients rounded after.
/// @tparam E The element type of the weights.
template <class E>
class WideProducts {
 public:
  using Value = Scalar<E>;

  /// A weight as a factor: to be read until the next use of the scratch memory.
  static Tensor<const Value> operand(Scratch<E>& scratch, Tensor<E> weight) { return scratch.widen(weight); }

  static void multiply(Factor<Value> a, Factor<Value> b, Tensor<Value> c, Assignment assignment) {
    gpt::multiply<Value>(a, b, c, 1, assignment == Assignment::add ? 1 : 0);
  }

  /// a b becomes the gradient.
  static void write(Scratch<E>& scratch, Tensor<E> gradient, Factor<Value> a, Factor<Value> b) {
    scratch.fill(gradient, [&](Tensor<Value> wide) { multiply(a, b, wide, Assignment::replace); });
  }
};

/// In bf16, summed in fp32: weights are factors as they are, and activations are rounded.
class NarrowProducts {
 public:
  /// @param threads Of a product. @pre The processor has Bf16Products.
  explicit NarrowProducts(int threads) : products_{threads} {}

  static Tensor<const BFloat16> operand(Scratch<BFloat16>&, Tensor<BFloat16> weight) { return weight; }

  void multiply(Factor<float> a, Factor<BFloat16> b, Tensor<float> c, Assignment assignment) {
    products_.multiply(narrowed(a, a_), b, c, assignment);
  }
  void multiply(Factor<float> a, Factor<float> b, Tensor<float> c, Assignment assignment) {
    products_.multiply(narrowed(a, a_), narrowed(b, b_), c, assignment);
  }
  void write(Scratch<BFloat16>&, Tensor<BFloat16> gradient, Factor<float> a, Factor<float> b) {
    products_.multiply(narrowed(a, a_), narrowed(b, b_), gradient);
  }

 private:
  static Factor<BFloat16> narrowed(Factor<float> factor, std::vector<BFloat16>& room) {
    const Tensor<const float> wide = factor.matrix;
    if (room.size() < wide.size()) room.resize(wide.size());
    const auto narrow = [&](const float* from, std::size_t first, std::size_t count) {
      zerospan::from_float(from, zerospan::ElementType::bfloat16, reinterpret_cast<std::byte*>(&room[first]), count);
    };
    if (wide.stride == wide.columns) {
      narrow(wide.data, 0, wide.size());
    } else {
      for (std::size_t r = 0; r < wide.rows; ++r) narrow(wide.row(r), r * wide.columns, wide.columns);
    }
    return {Tensor<const BFloat16>{room.data(), wide.rows, wide.columns}, factor.order};
  }

  Bf16Products products_;
  std::vector<BFloat16> a_;
  std::vector<BFloat16> b_;
};

}  // namespace gpt
