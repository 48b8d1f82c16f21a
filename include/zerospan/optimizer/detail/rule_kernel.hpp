/// @file
/// Updates by the rules of optimizers that have one fp32 state an element, or none: one pass over memory, for each
/// instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>
#include <zerospan/kernels/detail/avx2.hpp>
#include <zerospan/kernels/detail/avx512.hpp>
#include <zerospan/optimizer/detail/parameter_copy.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// One run: its arrays, each from the run's first element on.
struct RuleRun {
  float* master;
  float* state;  ///< Not looked at by rules without states.
  const std::byte* gradient;
  std::byte* parameter;
  float gradient_scale;
};

/// Elements that a vector body updates at once. The count is a constant, so that its loops vectorize at every
/// optimization level; it is small, so that all arrays are read at one pace, and what memory brings for one of them
/// does not wait for another.
using RuleStep = std::integral_constant<std::size_t, 64>;

/// A rule is the arithmetic of an optimizer: `rule(weight, gradient, state...)` returns the new weight, and changes the
/// `Rule::states` states (here none or one) in place. It is made of the operations of kernels/detail/arithmetic.hpp, so
/// that no compiler can contract them: whatever the rule is compiled for, it gives the same bits.
template <class Rule>
[[gnu::always_inline]] inline void apply_rule(const Rule& rule, float* __restrict master, float* __restrict state,
                                              const float* __restrict gradient) noexcept {
  for (std::size_t i = 0; i < RuleStep::value; ++i) {
    if constexpr (Rule::states == 1) {
      float s = state[i];
      master[i] = rule(master[i], gradient[i], s);
      state[i] = s;
    } else {
      master[i] = rule(master[i], gradient[i]);
    }
  }
}

/// Updates the elements [begin, end). An fp32 parameter is not written, here and below: it is the master weights.
template <ElementType Gradient, ElementType Parameter, class Rule>
[[gnu::always_inline]] inline void update_scalar(const Rule& rule, const RuleRun& run, std::size_t begin,
                                                 std::size_t end) noexcept {
  for (std::size_t i = begin; i < end; ++i) {
    const float g = product(load_element<Gradient>(run.gradient, i), run.gradient_scale);
    if constexpr (Rule::states == 1) {
      float s = run.state[i];
      run.master[i] = rule(run.master[i], g, s);
      run.state[i] = s;
    } else {
      run.master[i] = rule(run.master[i], g);
    }
    if constexpr (Parameter != ElementType::float32) store_element<Parameter>(run.parameter, i, run.master[i]);
  }
}

#if defined(__x86_64__)
/// Asks for the cache lines of so many bytes.
template <std::size_t Bytes>
[[gnu::always_inline]] inline void prefetch_lines(const void* begin) noexcept {
  constexpr std::size_t line = 64;
  for (std::size_t i = 0; i < Bytes; i += line) __builtin_prefetch(static_cast<const std::byte*>(begin) + i);
}

/// Asks for what is updated four steps later: the hardware keeps ahead of few arrays at once, and stops at page
/// boundaries. With fp32 gradients there is so little to compute that loads run ahead by themselves, and this only
/// takes time. @param n Elements of the run; at least one step is left from element `i` on.
template <ElementType Gradient, ElementType Parameter, class Rule>
[[gnu::always_inline]] inline void prefetch_step(const RuleRun& run, std::size_t i, std::size_t n) noexcept {
  if constexpr (Gradient == ElementType::float32) return;
  constexpr std::size_t count = RuleStep::value;
  const std::size_t ahead = std::min(i + 4 * count, n - count);
  prefetch_lines<count * sizeof(float)>(run.master + ahead);
  if constexpr (Rule::states == 1) prefetch_lines<count * sizeof(float)>(run.state + ahead);
  prefetch_lines<count * element_bytes(Gradient)>(run.gradient + ahead * element_bytes(Gradient));
  if constexpr (Parameter != ElementType::float32) {
    prefetch_lines<count * element_bytes(Parameter)>(run.parameter + ahead * element_bytes(Parameter));
  }
}

namespace avx2 {

/// Updates `n` elements; the tail is the scalar body itself.
template <ElementType Gradient, ElementType Parameter, class Rule>
[[gnu::target("avx2,fma,f16c")]] inline void update(const Rule& rule, const RuleRun& run, std::size_t n) noexcept {
  const __m256 scale = _mm256_set1_ps(run.gradient_scale);
  alignas(64) std::array<float, RuleStep::value> gradient;
  std::size_t i = 0;
  for (; i + RuleStep::value <= n; i += RuleStep::value) {
    prefetch_step<Gradient, Parameter, Rule>(run, i, n);
    for (std::size_t k = 0; k < RuleStep::value; k += 8) {
      _mm256_store_ps(&gradient[k], _mm256_mul_ps(load8<Gradient>(run.gradient, i + k), scale));
    }
    float* const master = run.master + i;
    apply_rule(rule, master, Rule::states == 0 ? nullptr : run.state + i, gradient.data());
    if constexpr (Parameter != ElementType::float32) {
      for (std::size_t k = 0; k < RuleStep::value; k += 16) {
        store16<Parameter>(run.parameter, i + k, _mm256_loadu_ps(master + k), _mm256_loadu_ps(master + k + 8));
      }
    }
  }
  update_scalar<Gradient, Parameter>(rule, run, i, n);
}

}  // namespace avx2

namespace avx512 {

/// Updates `n` elements; the tail is the scalar body itself.
template <ElementType Gradient, ElementType Parameter, class Rule>
[[gnu::target("avx512f,avx2,fma,f16c")]] inline void update(const Rule& rule, const RuleRun& run,
                                                            std::size_t n) noexcept {
  const __m512 scale = _mm512_set1_ps(run.gradient_scale);
  alignas(64) std::array<float, RuleStep::value> gradient;
  std::size_t i = 0;
  for (; i + RuleStep::value <= n; i += RuleStep::value) {
    prefetch_step<Gradient, Parameter, Rule>(run, i, n);
    for (std::size_t k = 0; k < RuleStep::value; k += 16) {
      _mm512_store_ps(&gradient[k], _mm512_mul_ps(load16<Gradient>(run.gradient, i + k), scale));
    }
    float* const master = run.master + i;
    apply_rule(rule, master, Rule::states == 0 ? nullptr : run.state + i, gradient.data());
    if constexpr (Parameter != ElementType::float32) {
      for (std::size_t k = 0; k < RuleStep::value; k += 16) {
        store16<Parameter>(run.parameter, i + k, _mm512_loadu_ps(master + k));
      }
    }
  }
  update_scalar<Gradient, Parameter>(rule, run, i, n);
}

}  // namespace avx512
#endif

template <ElementType Gradient, ElementType Parameter, class Rule>
void update_run(const Rule& rule, const RuleRun& run, std::size_t n, [[maybe_unused]] InstructionSet set) noexcept {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512) return avx512::update<Gradient, Parameter>(rule, run, n);
  if (set == InstructionSet::avx2) return avx2::update<Gradient, Parameter>(rule, run, n);
#endif
  update_scalar<Gradient, Parameter>(rule, run, 0, n);
}

/// Updates a run by a rule, by the body for `set`.
template <class Rule>
void update_by_rule(const ShardUpdate& shard, const Rule& rule, InstructionSet set) {
  static_assert(Rule::states <= 1);
  with_parameter_copy(shard, [&](const ShardUpdate& piece) {
    const RuleRun run{.master = piece.master,
                      .state = Rule::states == 0 ? nullptr : reinterpret_cast<float*>(piece.states) + piece.first,
                      .gradient = piece.gradient,
                      .parameter = piece.parameter,
                      .gradient_scale = piece.gradient_scale};
    dispatch_element_type(piece.gradient_type, [&](auto gradient) {
      dispatch_element_type(piece.parameter_type, [&](auto parameter) {
        update_run<gradient.value, parameter.value>(rule, run, piece.elements, set);
      });
    });
  });
}

}  // namespace zerospan::inline v0::detail
