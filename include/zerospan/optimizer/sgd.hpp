/// @file
/// Stochastic gradient descent, with momentum.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
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

/// How a weight decays.
enum class WeightDecay : std::uint8_t {
  coupled,    ///< As a part of the gradient: L2 regularization.
  decoupled,  ///< Beside the gradient (Loshchilov and Hutter, arXiv 1711.05101).
};

/// What a step follows.
enum class Momentum : std::uint8_t {
  classical,  ///< The momentum.
  nesterov,   ///< The gradient, and where the momentum will lead (Sutskever et al., ICML 2013, in PyTorch's form).
};

namespace detail {

/// The numbers of one update by Sgd, the same for every element.
struct SgdCoefficients {
  float coupled_decay;
  float momentum;
  float gradient_share;  ///< 1 - dampening; 1 in the first update.
  float along_momentum;  ///< The step is along_momentum * momentum + along_gradient * gradient.
  float along_gradient;
  float keep;  ///< 1 - learning rate * decoupled decay
  float rate;
};

struct SgdRule {
  static constexpr std::size_t states = 0;
  SgdCoefficients c;

  [[gnu::always_inline]] constexpr float operator()(float p, float gradient) const noexcept {
    return multiply_add(-c.rate, multiply_add(c.coupled_decay, p, gradient), product(p, c.keep));
  }
};

struct MomentumRule {
  static constexpr std::size_t states = 1;
  SgdCoefficients c;

  [[gnu::always_inline]] constexpr float operator()(float p, float gradient, float& b) const noexcept {
    const float g = multiply_add(c.coupled_decay, p, gradient);
    b = multiply_add(c.momentum, b, product(c.gradient_share, g));
    return multiply_add(-c.rate, multiply_add(c.along_momentum, b, product(c.along_gradient, g)), product(p, c.keep));
  }
};

}  // namespace detail

/// Stochastic gradient descent, in the form that PyTorch computes (torch.optim.SGD). With the scaled gradient g, for
/// each element:
/// @code
/// g = g + wd p                                  // coupled decay
/// b = momentum b + (1 - dampening) g            // in the first update: b = g
/// p = p - lr b                                  // classical; without momentum: p - lr g
/// p = p - lr (g + momentum b)                   // nesterov
/// @endcode
/// where lr = learning_rate * group.learning_rate_factor and wd = weight_decay * group.weight_decay_factor; decoupled
/// decay replaces p by (1 - lr wd) p and leaves g alone. States: b, fp32: 4 bytes an element; without momentum none.
struct Sgd {
  float learning_rate = 1e-3F;
  float momentum = 0.0F;  ///< Whether it is 0 is settled when the engine is made.
  float dampening = 0.0F;
  Momentum kind = Momentum::classical;
  float weight_decay = 0.0F;
  WeightDecay decay = WeightDecay::coupled;

  static constexpr std::string_view name = "Sgd";

  std::array<NamedSetting, 6> settings() const noexcept {
    return {{{"learning_rate", learning_rate, SettingRange::not_negative},
             {"momentum", momentum, SettingRange::below_one},
             {"dampening", dampening, SettingRange::share},
             {"nesterov", kind == Momentum::nesterov ? 1.0 : 0.0},
             {"weight_decay", weight_decay, SettingRange::not_negative},
             {"decoupled_decay", decay == WeightDecay::decoupled ? 1.0 : 0.0}}};
  }

  /// @throws ConfigurationError that names the first setting outside its range, or Nesterov's momentum if it is 0 or
  /// dampened.
  void validate() const {
    detail::require_in_range(name, settings());
    if (kind != Momentum::nesterov) return;
    detail::require(name, {"momentum", momentum}, momentum > 0 ? "" : "but nesterov needs some");
    detail::require(name, {"dampening", dampening}, dampening > 0 ? "but nesterov takes none" : "");
  }

  /// Bytes of b for `elements` elements.
  std::size_t state_bytes(std::size_t elements) const noexcept { return momentum > 0 ? sizeof(float) * elements : 0; }

  /// None without momentum.
  std::span<const StateArray> state_arrays() const noexcept {
    return std::span{own_arrays}.first(momentum > 0 ? own_arrays.size() : 0);
  }

  /// One update of a run. @throws ConfigurationError if `shard.step` is not positive.
  void update(const ShardUpdate& shard) const { update(shard, best_instruction_set()); }

  /// The same bits, by a body of the caller's choice. @param set One that this processor has.
  void update(const ShardUpdate& shard, InstructionSet set) const {
    if (momentum > 0) {
      detail::update_by_rule(shard, momentum_rule(shard), set);
    } else {
      detail::update_by_rule(shard, plain_rule(shard), set);
    }
  }

  /// The arithmetic of one update of `shard` with momentum, for the kernels of other processors.
  /// @throws ConfigurationError if `shard.step` is not positive.
  detail::MomentumRule momentum_rule(const ShardUpdate& shard) const { return {coefficients(shard)}; }

  /// The same without momentum.
  detail::SgdRule plain_rule(const ShardUpdate& shard) const { return {coefficients(shard)}; }

 private:
  static constexpr std::array own_arrays{StateArray{"momentum_buffer"}};

  detail::SgdCoefficients coefficients(const ShardUpdate& shard) const {
    detail::require_step(name, shard.step);
    const double rate = double{learning_rate} * double{shard.group.learning_rate_factor};
    const double decay_rate = double{weight_decay} * double{shard.group.weight_decay_factor};
    const bool is_coupled = decay == WeightDecay::coupled;
    const bool looks_ahead = kind == Momentum::nesterov;
    return {.coupled_decay = is_coupled ? static_cast<float>(decay_rate) : 0.0F,
            .momentum = momentum,
            .gradient_share = shard.step == 1 ? 1.0F : static_cast<float>(1.0 - double{dampening}),
            .along_momentum = looks_ahead ? momentum : 1.0F,
            .along_gradient = looks_ahead ? 1.0F : 0.0F,
            .keep = is_coupled ? 1.0F : static_cast<float>(std::fma(-rate, decay_rate, 1.0)),
            .rate = static_cast<float>(rate)};
  }
};

static_assert(Optimizer<Sgd> && NamesStates<Sgd>);

}  // namespace zerospan::inline v0
