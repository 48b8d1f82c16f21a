/// @file
/// sim::Work and sim::ComputeSpeed: how long compute takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::sim {

/// Compute of the host: operations, and if they are those of a matrix product the shape of it, m x k times k x n.
struct Work {
  double flops = 0;
  std::size_t m = 0;
  std::size_t n = 0;
  std::size_t k = 0;
};

/// A product of that shape, of 2 m n k operations.
constexpr Work matrix_product(std::size_t m, std::size_t n, std::size_t k) noexcept {
  return {2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k), m, n, k};
}

/// Operations a second, for each piece of work. Empty: a constant of the topology's.
using ComputeSpeed = std::function<double(const Work&)>;

/// A ComputeSpeed of measured shapes: that of the nearest one, by the ratios of m, n and k.
class MeasuredSpeed {
 public:
  struct Sample {
    std::size_t m;
    std::size_t n;
    std::size_t k;
    double flops_per_second;
  };

  /// @throws ConfigurationError if there is none.
  explicit MeasuredSpeed(std::vector<Sample> samples) : samples_{std::move(samples)} {
    if (samples_.empty()) throw_configuration_error("a measured speed needs a measurement");
  }

  double operator()(const Work& work) const {
    const auto distance = [&](const Sample& sample) {
      return std::abs(ratio(work.m, sample.m)) + std::abs(ratio(work.n, sample.n)) + std::abs(ratio(work.k, sample.k));
    };
    return std::ranges::min_element(samples_, {}, distance)->flops_per_second;
  }

 private:
  /// In powers of two; of no shape that of 1.
  static double ratio(std::size_t a, std::size_t b) {
    return std::log2(static_cast<double>(std::max<std::size_t>(a, 1)) /
                     static_cast<double>(std::max<std::size_t>(b, 1)));
  }

  std::vector<Sample> samples_;
};

}  // namespace zerospan::inline v0::sim
