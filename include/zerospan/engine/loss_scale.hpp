/// @file
/// Loss scaling: what keeps small float16 gradients from vanishing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>

namespace zerospan::inline v0 {

/// The rule by which the loss scale moves (Micikevicius et al., arXiv 1710.03740, section 3.2): a step whose gradients
/// overflow is skipped and lowers it, a long row of good steps raises it. All scales and factors are powers of two:
/// scaling then changes exponents alone, and gradients that neither overflow nor vanish train to the same bits whatever
/// the scale is. Factors of 1 keep it constant.
struct DynamicLossScale {
  float initial = 65536.0F;
  float growth_factor = 2.0F;
  float backoff_factor = 0.5F;
  std::size_t growth_interval = 2000;  ///< Good steps in a row before the scale grows.
  float minimum = 1.0F;                ///< A step that overflows at the minimum is still skipped.
  float maximum = 0x1p24F;

  /// @throws ConfigurationError that names the first setting without sense: one that is not a power of two from 2^-64
  /// to 2^64, a growth below 1, a backoff above 1, an interval of 0, an initial scale outside [minimum, maximum].
  void validate() const {
    const auto require = [](bool sound, const char* name, float value, const char* range) {
      if (!sound)
        throw_configuration_error(std::string{"loss scale: "} + name + " is " + detail::in_words(value) + range);
    };
    const auto is_power = [](float value) {
      int exponent = 0;
      return value >= 0x1p-64F && value <= 0x1p64F && std::frexp(value, &exponent) == 0.5F;
    };
    const char* const not_power = ", not a power of two from 2^-64 to 2^64";
    require(is_power(minimum), "minimum", minimum, not_power);
    require(is_power(maximum), "maximum", maximum, not_power);
    require(is_power(initial), "initial", initial, not_power);
    require(minimum <= initial && initial <= maximum, "initial", initial, ", not from minimum to maximum");
    require(is_power(growth_factor) && growth_factor >= 1, "growth_factor", growth_factor, ", not 1, 2, 4, ...");
    require(is_power(backoff_factor) && backoff_factor <= 1, "backoff_factor", backoff_factor,
            ", not 1, 1/2, 1/4, ...");
    if (growth_interval == 0) throw_configuration_error("loss scale: growth_interval is 0, not positive");
  }
};

/// Where a loss scale stands.
struct LossScaleState {
  float value = 1.0F;
  std::size_t good_steps = 0;  ///< In a row, since it last moved.

  friend bool operator==(const LossScaleState&, const LossScaleState&) = default;
};

/// The loss scale as it moves; without a rule it is 1 and stays there.
class LossScale {
 public:
  explicit LossScale(const std::optional<DynamicLossScale>& rule) : rule_{rule}, value_{rule ? rule->initial : 1.0F} {}

  /// What losses, and so gradients, are multiplied by until the next step.
  float value() const noexcept { return value_; }

  /// Where it stands; nowhere without a rule.
  std::optional<LossScaleState> state() const {
    if (!rule_) return std::nullopt;
    return LossScaleState{value_, good_steps_};
  }

  /// Goes on from there, as far as the rule goes; without a rule nothing changes.
  void restore(const LossScaleState& state) noexcept {
    if (!rule_) return;
    value_ = std::clamp(state.value, rule_->minimum, rule_->maximum);
    good_steps_ = state.good_steps;
  }

  /// Moves on to the next step.
  /// @param finite Whether this step's gradients were, on every rank.
  void advance(bool finite) noexcept {
    if (!rule_) return;
    good_steps_ = finite ? good_steps_ + 1 : 0;
    if (!finite) value_ = std::max(value_ * rule_->backoff_factor, rule_->minimum);
    if (good_steps_ < rule_->growth_interval) return;
    good_steps_ = 0;
    value_ = std::min(value_ * rule_->growth_factor, rule_->maximum);
  }

 private:
  std::optional<DynamicLossScale> rule_;
  float value_;
  std::size_t good_steps_ = 0;
};

}  // namespace zerospan::inline v0
