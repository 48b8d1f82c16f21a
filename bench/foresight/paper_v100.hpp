/// @file
/// How fast a V100 multiplies matrices of fp16: the one curve of all rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <zerospan/sim/compute.hpp>

namespace paper {

/// A matrix product takes the time of its tiles, or that of its bytes.
///
/// NVIDIA's "Matrix Multiplication Background User's Guide" gives the form: a product is cut into tiles of 256 x 128
/// outputs, of which each of the V100's 80 multiprocessors has one at a time, so that tiles at the edge and the last
/// wave of tiles waste some of them; and nothing is faster than its operands cross the memory, at 900 GB/s. How fast
/// full waves are is what ZeRO-Infinity names as the achievable peak of a V100, 70 TFLOP/s (arXiv 2104.07857, section 4
/// and figure 3). The data sheet says 125 TFLOP/s; 83 were measured with cuBLAS (Markidis et al., arXiv 1803.04014).
struct V100 {
  double full_waves = 70e12;  ///< Operations a second.
  double memory = 900e9;      ///< Bytes a second.
  double multiprocessors = 80;

  /// Of a product of m x k and k x n.
  double operator()(double m, double n, double k) const {
    const double math = full_waves * std::max(used(m, n, 256, 128), used(m, n, 128, 256));
    const double bytes = 2 * (m * k + k * n + m * n);
    return std::min(math, 2 * m * n * k / bytes * memory);
  }

  /// Work without a shape is bytes that cross the memory.
  double operator()(const zerospan::sim::Work& work) const {
    if (work.m == 0) return memory;
    return (*this)(static_cast<double>(work.m), static_cast<double>(work.n), static_cast<double>(work.k));
  }

 private:
  /// The share of the multiprocessors' time that makes outputs.
  double used(double m, double n, double high, double wide) const {
    const double tiles = std::ceil(m / high) * std::ceil(n / wide);
    const double waves = tiles / multiprocessors;
    return m * n / (tiles * high * wide) * waves / std::ceil(waves);
  }
};

}  // namespace paper
