/// @file
/// GELU in GPT-2's approximation: x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
#pragma once

#include <cmath>
#include <cstddef>
#include <numbers>

#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

namespace detail {

inline constexpr double gelu_cubic = 0.044715;
inline constexpr double gelu_scale = 2.0 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // 2 sqrt(2 / pi)

/// (1 + tanh(u)) / 2, which is the logistic function of 2 u: nothing cancels.
template <class S>
S gelu_gate(S x) {
  const S argument = static_cast<S>(gelu_scale) * x * (S{1} + static_cast<S>(gelu_cubic) * x * x);
  return S{1} / (S{1} + exponential(-argument));
}

}  // namespace detail

/// y = gelu(x), element by element, for matrices of contiguous rows.
template <class S>
void gelu_forward(Input<S> x, Tensor<S> y) {
  for (std::size_t i = 0; i < y.size(); ++i) y.data[i] = x.data[i] * detail::gelu_gate(x.data[i]);
}

/// Turns `gradient` from that of gelu(x) into that of x.
template <class S>
void gelu_backward(Input<S> x, Tensor<S> gradient) {
  constexpr S scale = static_cast<S>(detail::gelu_scale);
  constexpr S slope = static_cast<S>(3.0 * detail::gelu_cubic);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const S value = x.data[i];
    const S gate = detail::gelu_gate(value);
    const S dargument = scale * (S{1} + slope * value * value);
    gradient.data[i] *= gate + value * gate * (S{1} - gate) * dargument;
  }
}

}  // namespace gpt
