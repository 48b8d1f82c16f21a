/// @file
/// AdamW, fused: one pass over master weights, moments and gradients that writes the new parameters as well.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/optimizer/detail/adamw_kernel.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/detail/parameter_copy.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/setting.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0 {

/// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), in the form that PyTorch computes
/// (torch.optim.AdamW). With the scaled gradient g, at update t, for each element:
/// @code
/// m = beta1 m + (1 - beta1) g
/// v = beta2 v + (1 - beta2) g^2
/// p = (1 - lr wd) p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// @endcode
/// where lr = learning_rate * group.learning_rate_factor and wd = weight_decay * group.weight_decay_factor. What does
/// not depend on the element is computed in double, once an update. States: m, then v, fp32: 8 bytes an element. With
/// 16-bit gradients and parameters an update moves 28 bytes an element, and is bound by memory.
struct AdamW {
  float learning_rate = 1e-3F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  float weight_decay = 0.01F;

  static constexpr std::string_view name = "AdamW";

  /// With an epsilon of 0, elements without gradient would become NaN.
  std::array<NamedSetting, 5> settings() const noexcept {
    return {{{"learning_rate", learning_rate, SettingRange::not_negative},
             {"beta1", beta1, SettingRange::below_one},
             {"beta2", beta2, SettingRange::below_one},
             {"epsilon", epsilon, SettingRange::positive},
             {"weight_decay", weight_decay, SettingRange::not_negative}}};
  }

  /// @throws ConfigurationError that names the first setting outside its range.
  void validate() const { detail::require_in_range(name, settings()); }

  /// Bytes of m and v for `elements` elements.
  std::size_t state_bytes(std::size_t elements) const noexcept { return 2 * sizeof(float) * elements; }

  std::span<const StateArray> state_arrays() const noexcept { return own_arrays; }

  /// One update of a run. @throws ConfigurationError if `shard.step` is not positive.
  void update(const ShardUpdate& shard) const { update(shard, best_instruction_set()); }

  /// The same bits, by a body of the caller's choice. @param set One that this processor has.
  void update(const ShardUpdate& shard, InstructionSet set) const {
    detail::with_parameter_copy(shard, [&, numbers = rule(shard)](const ShardUpdate& piece) {
      auto* const moments = reinterpret_cast<float*>(piece.states);
      const detail::AdamWRun arrays{.master = piece.master,
                                    .first_moment = moments + piece.first,
                                    .second_moment = moments + piece.capacity + piece.first,
                                    .gradient = piece.gradient,
                                    .parameter = piece.parameter,
                                    .gradient_scale = piece.gradient_scale};
      detail::dispatch_element_type(piece.gradient_type, [&](auto gradient) {
        detail::dispatch_element_type(piece.parameter_type, [&](auto parameter) {
          run<gradient.value, parameter.value>(numbers, arrays, piece.elements, set);
        });
      });
    });
  }

  /// The arithmetic of one update of `shard`, for the kernels of other processors.
  /// @throws ConfigurationError if `shard.step` is not positive.
  detail::AdamWRule rule(const ShardUpdate& shard) const {
    detail::require_step(name, shard.step);
    const double rate = double{learning_rate} * double{shard.group.learning_rate_factor};
    const double decay_rate = double{weight_decay} * double{shard.group.weight_decay_factor};
    const auto updates = static_cast<double>(shard.step);
    const double correction1 = 1.0 - std::pow(double{beta1}, updates);
    const double correction2 = 1.0 - std::pow(double{beta2}, updates);
    return {.beta1 = beta1,
            .one_minus_beta1 = static_cast<float>(1.0 - double{beta1}),
            .beta2 = beta2,
            .one_minus_beta2 = static_cast<float>(1.0 - double{beta2}),
            .decay = static_cast<float>(std::fma(-rate, decay_rate, 1.0)),
            .step_size = static_cast<float>(rate / correction1),
            .inverse_root_correction = static_cast<float>(1.0 / std::sqrt(correction2)),
            .epsilon = epsilon};
  }

 private:
  static constexpr std::array own_arrays{StateArray{"exp_avg"}, StateArray{"exp_avg_sq"}};

  template <ElementType Gradient, ElementType Parameter>
  static void run(const detail::AdamWRule& numbers, const detail::AdamWRun& arrays, std::size_t n,
                  [[maybe_unused]] InstructionSet set) noexcept {
#if defined(__x86_64__)
    if (set == InstructionSet::avx512) return detail::avx512::adamw<Gradient, Parameter>(numbers, arrays, n);
    if (set == InstructionSet::avx2) return detail::avx2::adamw<Gradient, Parameter>(numbers, arrays, n);
#endif
    detail::adamw_scalar<Gradient, Parameter>(numbers, arrays, 0, n);
  }
};

static_assert(Optimizer<AdamW> && NamesStates<AdamW>);

}  // namespace zerospan::inline v0
