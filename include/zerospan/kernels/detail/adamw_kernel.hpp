/// @file
/// The arithmetic of AdamW, element by element.
#pragma once

#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>

namespace zerospan::inline v0::detail {

/// The numbers of one update, the same for every element.
struct AdamWRule {
  static constexpr std::size_t states = 2;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float decay;                    ///< 1 - learning rate * weight decay
  float step_size;                ///< learning rate / (1 - beta1^step)
  float inverse_root_correction;  ///< 1 / sqrt(1 - beta2^step)
  float epsilon;

  [[gnu::always_inline]] constexpr float operator()(float p, float g, float& m, float& v) const noexcept {
    m = multiply_add(beta1, m, product(one_minus_beta1, g));
    v = multiply_add(beta2, v, product(product(one_minus_beta2, g), g));
    const float direction = quotient(m, multiply_add(square_root(v), inverse_root_correction, epsilon));
    return multiply_add(-step_size, direction, product(p, decay));
  }
};

/// One run: its arrays, each from the run's first element on.
struct AdamWRun {
  float* master;
  float* first_moment;
  float* second_moment;
  const std::byte* gradient;
  std::byte* parameter;
  float gradient_scale;
};

/// Updates the elements [begin, end).
template <ElementType Gradient, ElementType Parameter>
[[gnu::always_inline]] inline void adamw_scalar(const AdamWRule& rule, const AdamWRun& run, std::size_t begin,
                                                std::size_t end) noexcept {
  for (std::size_t i = begin; i < end; ++i) {
    const float g = product(load_element<Gradient>(run.gradient, i), run.gradient_scale);
    float m = run.first_moment[i];
    float v = run.second_moment[i];
    const float p = rule(run.master[i], g, m, v);
    run.first_moment[i] = m;
    run.second_moment[i] = v;
    run.master[i] = p;
    store_element<Parameter>(run.parameter, i, p);
  }
}

}  // namespace zerospan::inline v0::detail
