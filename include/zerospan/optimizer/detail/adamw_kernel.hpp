/// @file
/// The arithmetic of AdamW, element by element and on registers of AVX2 and AVX-512.
#pragma once

#include <algorithm>
#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>
#include <zerospan/kernels/detail/avx2.hpp>
#include <zerospan/kernels/detail/avx512.hpp>

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

/// Updates the elements [begin, end). An fp32 parameter is not written, here and below: it is the master weights.
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
    if constexpr (Parameter != ElementType::float32) store_element<Parameter>(run.parameter, i, p);
  }
}

#if defined(__x86_64__)
/// Elements ahead that vector bodies prefetch: 8 cache lines of each fp32 array.
inline constexpr std::size_t adamw_ahead = 128;

/// Asks for the cache lines of element `i`: four or five streams at once are more than the hardware keeps ahead of, and
/// it stops at page boundaries.
template <ElementType Gradient, ElementType Parameter>
[[gnu::always_inline]] inline void prefetch(const AdamWRun& run, std::size_t i) noexcept {
  __builtin_prefetch(run.first_moment + i);
  __builtin_prefetch(run.second_moment + i);
  __builtin_prefetch(run.master + i);
  __builtin_prefetch(run.gradient + i * element_bytes(Gradient));
  if constexpr (Parameter != ElementType::float32) __builtin_prefetch(run.parameter + i * element_bytes(Parameter));
}

namespace avx2 {

/// The numbers of an update, each in all lanes of a register.
struct AdamWVectors {
  [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline AdamWVectors(const AdamWRule& c, float scale) noexcept
      : gradient_scale{_mm256_set1_ps(scale)},
        beta1{_mm256_set1_ps(c.beta1)},
        one_minus_beta1{_mm256_set1_ps(c.one_minus_beta1)},
        beta2{_mm256_set1_ps(c.beta2)},
        one_minus_beta2{_mm256_set1_ps(c.one_minus_beta2)},
        decay{_mm256_set1_ps(c.decay)},
        step_size{_mm256_set1_ps(c.step_size)},
        inverse_root_correction{_mm256_set1_ps(c.inverse_root_correction)},
        epsilon{_mm256_set1_ps(c.epsilon)} {}

  __m256 gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  __m256 decay, step_size, inverse_root_correction, epsilon;
};

/// `AdamWRule`, operation by operation, for eight elements. @return the new master weights.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256 adamw8(const AdamWVectors& c, __m256 p, __m256 g,
                                                                          __m256& m, __m256& v) noexcept {
  m = _mm256_fmadd_ps(c.beta1, m, _mm256_mul_ps(c.one_minus_beta1, g));
  v = _mm256_fmadd_ps(c.beta2, v, _mm256_mul_ps(_mm256_mul_ps(c.one_minus_beta2, g), g));
  const __m256 denominator = _mm256_fmadd_ps(_mm256_sqrt_ps(v), c.inverse_root_correction, c.epsilon);
  return _mm256_fnmadd_ps(c.step_size, _mm256_div_ps(m, denominator), _mm256_mul_ps(p, c.decay));
}

/// The same for the elements from `i` on. @return the new master weights, stored already.
template <ElementType Gradient>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256 adamw8(const AdamWVectors& c, const AdamWRun& run,
                                                                          std::size_t i) noexcept {
  __m256 m = _mm256_loadu_ps(run.first_moment + i);
  __m256 v = _mm256_loadu_ps(run.second_moment + i);
  const __m256 g = _mm256_mul_ps(load8<Gradient>(run.gradient, i), c.gradient_scale);
  const __m256 p = adamw8(c, _mm256_loadu_ps(run.master + i), g, m, v);
  _mm256_storeu_ps(run.first_moment + i, m);
  _mm256_storeu_ps(run.second_moment + i, v);
  _mm256_storeu_ps(run.master + i, p);
  return p;
}

/// Updates `n` elements; the tail is the scalar body itself.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx2,fma,f16c")]] inline void adamw(const AdamWRule& rule, const AdamWRun& run, std::size_t n) noexcept {
  const AdamWVectors vectors{rule, run.gradient_scale};
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    prefetch<Gradient, Parameter>(run, std::min(i + adamw_ahead, n - 1));
    const __m256 low = adamw8<Gradient>(vectors, run, i);
    const __m256 high = adamw8<Gradient>(vectors, run, i + 8);
    if constexpr (Parameter != ElementType::float32) store16<Parameter>(run.parameter, i, low, high);
  }
  adamw_scalar<Gradient, Parameter>(rule, run, i, n);
}

}  // namespace avx2

namespace avx512 {

/// `AdamWRule`, operation by operation, for sixteen elements. @return the new master weights.
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512 adamw16(const AdamWRule& rule, __m512 p,
                                                                                   __m512 g, __m512& m,
                                                                                   __m512& v) noexcept {
  m = _mm512_fmadd_ps(_mm512_set1_ps(rule.beta1), m, _mm512_mul_ps(_mm512_set1_ps(rule.one_minus_beta1), g));
  v = _mm512_fmadd_ps(_mm512_set1_ps(rule.beta2), v,
                      _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(rule.one_minus_beta2), g), g));
  const __m512 denominator =
      _mm512_fmadd_ps(_mm512_maskz_sqrt_ps(all_lanes, v), _mm512_set1_ps(rule.inverse_root_correction),
                      _mm512_set1_ps(rule.epsilon));
  return _mm512_fnmadd_ps(_mm512_set1_ps(rule.step_size), _mm512_div_ps(m, denominator),
                          _mm512_mul_ps(p, _mm512_set1_ps(rule.decay)));
}

/// The same for the elements from `i` on. @return the new master weights, stored already.
template <ElementType Gradient>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512 adamw16(const AdamWRule& rule,
                                                                                   const AdamWRun& run,
                                                                                   std::size_t i) noexcept {
  __m512 m = _mm512_loadu_ps(run.first_moment + i);
  __m512 v = _mm512_loadu_ps(run.second_moment + i);
  const __m512 g = _mm512_mul_ps(load16<Gradient>(run.gradient, i), _mm512_set1_ps(run.gradient_scale));
  const __m512 p = adamw16(rule, _mm512_loadu_ps(run.master + i), g, m, v);
  _mm512_storeu_ps(run.first_moment + i, m);
  _mm512_storeu_ps(run.second_moment + i, v);
  _mm512_storeu_ps(run.master + i, p);
  return p;
}

/// Updates `n` elements; the tail is the scalar body itself. The numbers of the update stay in registers: there are 32.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx512f,avx2,fma,f16c")]] inline void adamw(const AdamWRule& rule, const AdamWRun& run,
                                                           std::size_t n) noexcept {
  const AdamWRule numbers = rule;
  const AdamWRun arrays = run;
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    prefetch<Gradient, Parameter>(arrays, std::min(i + adamw_ahead, n - 1));
    const __m512 updated = adamw16<Gradient>(numbers, arrays, i);
    if constexpr (Parameter != ElementType::float32) store16<Parameter>(arrays.parameter, i, updated);
  }
  adamw_scalar<Gradient, Parameter>(numbers, arrays, i, n);
}

}  // namespace avx512
#endif

}  // namespace zerospan::inline v0::detail
