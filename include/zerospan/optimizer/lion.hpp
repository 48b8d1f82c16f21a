/// @file
/// Lion: steps of one length, along the sign of an averaged gradient.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/detail/rule_kernel.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/setting.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// The numbers of one update by Lion, the same for every element.
struct LionRule {
  static constexpr std::size_t states = 1;
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float keep;  ///< 1 - learning rate * weight decay
  float rate;

  [[gnu::always_inline]] constexpr float operator()(float p, float g, float& m) const noexcept {
    const float direction = multiply_add(beta1, m, product(one_minus_beta1, g));
    m = multiply_add(beta2, m, product(one_minus_beta2, g));
    return multiply_add(-rate, sign(direction), product(p, keep));
  }

  /// 1, -1, or `x` itself: zero, or NaN. Both comparisons are made, so that the choice vectorizes.
  [[gnu::always_inline]] static constexpr float sign(float x) noexcept {
    const bool is_positive = x > 0;
    const bool is_negative = x < 0;
    const float rest = is_negative ? -1.0F : x;
    return is_positive ? 1.0F : rest;
  }
};

}  // namespace detail

/// Lion (Chen et al., arXiv 2302.06675, algorithm 2). With the scaled gradient g, for each element:
/// @code
/// p = (1 - lr wd) p - lr sign(beta1 m + (1 - beta1) g)
/// m = beta2 m + (1 - beta2) g
/// @endcode
/// where lr = learning_rate * group.learning_rate_factor and wd = weight_decay * group.weight_decay_factor. Compared to
/// AdamW's, its learning rate is 3 to 10 times smaller, its weight decay as many times larger (section 5). States: m,
/// fp32: 4 bytes an element, half of AdamW's.
struct Lion {
  float learning_rate = 1e-4F;
  float beta1 = 0.9F;
  float beta2 = 0.99F;
  float weight_decay = 0.0F;

  static constexpr std::string_view name = "Lion";

  std::array<NamedSetting, 4> settings() const noexcept {
    return {{{"learning_rate", learning_rate, SettingRange::not_negative},
             {"beta1", beta1, SettingRange::below_one},
             {"beta2", beta2, SettingRange::below_one},
             {"weight_decay", weight_decay, SettingRange::not_negative}}};
  }

  /// @throws ConfigurationError that names the first setting outside its range.
  void validate() const { detail::require_in_range(name, settings()); }

  /// Bytes of m for `elements` elements.
  std::size_t state_bytes(std::size_t elements) const noexcept { return sizeof(float) * elements; }

  std::span<const StateArray> state_arrays() const noexcept { return own_arrays; }

  /// One update of a run. @throws ConfigurationError if `shard.step` is not positive.
  void update(const ShardUpdate& shard) const { update(shard, best_instruction_set()); }

  /// The same bits, by a body of the caller's choice. @param set One that this processor has.
  void update(const ShardUpdate& shard, InstructionSet set) const { detail::update_by_rule(shard, rule(shard), set); }

  /// The arithmetic of one update of `shard`, for the kernels of other processors.
  /// @throws ConfigurationError if `shard.step` is not positive.
  detail::LionRule rule(const ShardUpdate& shard) const {
    detail::require_step(name, shard.step);
    const double rate = double{learning_rate} * double{shard.group.learning_rate_factor};
    const double decay_rate = double{weight_decay} * double{shard.group.weight_decay_factor};
    return {.beta1 = beta1,
            .one_minus_beta1 = static_cast<float>(1.0 - double{beta1}),
            .beta2 = beta2,
            .one_minus_beta2 = static_cast<float>(1.0 - double{beta2}),
            .keep = static_cast<float>(std::fma(-rate, decay_rate, 1.0)),
            .rate = static_cast<float>(rate)};
  }

 private:
  static constexpr std::array own_arrays{StateArray{"exp_avg"}};
};

static_assert(Optimizer<Lion> && NamesStates<Lion>);

}  // namespace zerospan::inline v0
