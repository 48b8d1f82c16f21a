/// @file
/// How fast a V100 multiplies matrices of fp16, by their shapes: the one curve of all rows.
///
/// The form is that of NVIDIA's "Matrix Multiplication Background User's Guide": a product is cut into tiles of
/// 256 x 128 outputs, of which each of the V100's 80 multiprocessors has one at a time, so that tiles at the edge and
/// the last wave of tiles waste some of them; and nothing is faster than its operands cross the memory.
///
/// How fast full waves are has three published answers. None is taken from the rows that are foretold.
/// - What cuBLAS reaches. Squares of 1024, 2048, 4096, 8192 and 10240 on a V100-SXM2: 57, 78, 96, 97 and 89 TFLOP/s
///   (github.com/zzc0721/torch-performance-test-data, issue 140); 8192 on another: 96 (github.com/mli/
///   transformers-benchmarks, matmul.ipynb); 95 to 100 on a V100-PCIE at m = 2048 (github.com/lablup/mlxcel, issue
///   1654). With 97 the form gives 39, 78, 89, 96 and 97: within 9% but for the smallest, which cuBLAS cuts into
///   smaller tiles. A whole layer of BERT is within a sixth of what was measured of it.
/// - What the layers of the paper reach: its achievable peak of 70 TFLOP/s for the DGX-2, without communication (arXiv
///   2104.07857, section 4 and figure 3). A layer is more than products (paper_layer.hpp): at widths from 8192 to 65536
///   and four sequences, full waves of 73.4 make it 70.
/// - What a training in Megatron-LM reaches, the paper's program, on one V100 of a DGX-2H: 39 TFLOP/s, 30% of the data
///   sheet's peak, with 1.2e9 parameters at hd 1536 (arXiv 1909.08053, section 5.1). Full waves of 53.0 make it that if
///   the figure counts attention, and 60.7 if it does not.
///
/// The curve has the second, which was measured on the paper's machine and at its widths. It is a peak, and the third,
/// of a whole training in a narrow model, is a floor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <zerospan/sim/compute.hpp>

namespace paper {

inline constexpr double waves_of_cublas = 97e12;
inline constexpr double waves_of_paper = 73.4e12;
inline constexpr double waves_of_megatron = 53.0e12;
inline constexpr double waves_of_megatron_without_attention = 60.7e12;

struct V100 {
  double full_waves = waves_of_paper;  ///< Operations a second.
  /// Bytes a second: 0.098e12 fp32 elements a second are read, multiplied and written (mli/transformers-benchmarks,
  /// README); 900e9 by data sheet.
  double memory = 784e9;
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

  double seconds(const zerospan::sim::Work& work) const { return work.flops / (*this)(work); }

 private:
  /// The share of the multiprocessors' time that makes outputs.
  double used(double m, double n, double high, double wide) const {
    const double tiles = std::ceil(m / high) * std::ceil(n / wide);
    const double waves = tiles / multiprocessors;
    return m * n / (tiles * high * wide) * waves / std::ceil(waves);
  }
};

}  // namespace paper
