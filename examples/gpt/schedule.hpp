/// @file
/// The learning rate over time.
#pragma once

#include <cmath>
#include <cstddef>
#include <numbers>

namespace gpt {

/// A linear warm-up to `maximum`, then half a cosine down to `minimum` at the last step.
struct Schedule {
  double maximum;
  double minimum;
  std::size_t warmup;  ///< Steps.
  std::size_t steps;   ///< All of them, the warm-up included.

  /// @param step Counts from 0.
  double learning_rate(std::size_t step) const {
    if (step < warmup) return maximum * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
    if (step >= steps) return minimum;
    const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
    return minimum + 0.5 * (1.0 + std::cos(std::numbers::pi * progress)) * (maximum - minimum);
  }
};

}  // namespace gpt
