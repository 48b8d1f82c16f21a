/// @file
/// What the settings of optimizers have to be.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// Refuses settings without sense. Each call throws a ConfigurationError that names the optimizer and the setting.
class Settings {
 public:
  explicit Settings(const char* optimizer) : optimizer_{optimizer} {}

  void require(bool sound, const char* name, float value, const char* range) const {
    if (!sound)
      throw_configuration_error(std::string{optimizer_} + ": " + name + " is " + std::to_string(value) + range);
  }

  /// A learning rate or a decay.
  void require_rate(const char* name, float value) const {
    require(std::isfinite(value) && value >= 0, name, value, ", not finite and at least 0");
  }

  /// The weight of the past in a moving average.
  void require_beta(const char* name, float value) const {
    require(value >= 0 && value < 1, name, value, ", not in [0, 1)");
  }

  void require_step(std::int64_t step) const {
    if (step < 1) {
      throw_configuration_error(std::string{optimizer_} + ": update " + std::to_string(step) + "; the first is 1");
    }
  }

 private:
  const char* optimizer_;
};

}  // namespace zerospan::inline v0::detail
