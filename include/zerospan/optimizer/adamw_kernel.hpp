/// @file
/// The arithmetic of AdamW, element by element.
#pragma once

#include <cmath>
#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/core/element.hpp>

namespace zerospan::inline v0::detail {

/// The numbers of one update, the same for every element.
struct AdamWCoefficients {
  float gradient_scale;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float decay;                    ///< 1 - learning rate * weight decay
  float step_size;                ///< learning rate / (1 - beta1^step)
  float inverse_root_correction;  ///< 1 / sqrt(1 - beta2^step)
  float epsilon;
};

/// The arrays of one run, each from the run's first element on.
struct AdamWArrays {
  float* master;
  float* first_moment;
  float* second_moment;
  const std::byte* gradient;
  std::byte* parameter;
};

/// Updates the elements [begin, end). Each product stands alone or is the addend of an explicit fma, so that no
/// compiler can contract it: this body and the vector bodies give the same bits.
template <ElementType Gradient, ElementType Parameter>
[[gnu::always_inline]] inline void adamw_scalar(const AdamWCoefficients& c, const AdamWArrays& arrays,
                                                std::size_t begin, std::size_t end) noexcept {
  for (std::size_t i = begin; i < end; ++i) {
    const float g = load_element<Gradient>(arrays.gradient, i) * c.gradient_scale;
    const float m = std::fma(c.beta1, arrays.first_moment[i], c.one_minus_beta1 * g);
    const float v = std::fma(c.beta2, arrays.second_moment[i], c.one_minus_beta2 * g * g);
    const float direction = m / std::fma(std::sqrt(v), c.inverse_root_correction, c.epsilon);
    const float p = std::fma(-c.step_size, direction, arrays.master[i] * c.decay);
    arrays.first_moment[i] = m;
    arrays.second_moment[i] = v;
    arrays.master[i] = p;
    store_element<Parameter>(arrays.parameter, i, p);
  }
}

}  // namespace zerospan::inline v0::detail
