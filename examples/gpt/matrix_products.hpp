/// @file
/// MatrixProducts: what computes them, and how fast.
#pragma once

#include <string>

#include <fmt/format.h>

#include "options.hpp"

namespace gpt {

/// Of one rank.
struct MatrixProducts {
  std::string library;
  std::string kernels{};        ///< For which processor the library has taken its kernels; empty: it does not tell.
  std::string instructions{};   ///< With which oneDNN computes those of weights in bf16; empty: they are no others.
  int threads = 0;              ///< Of a product; 0: it has none.
  double flops_per_second = 0;  ///< Of a layer's product, measured; 0: not measured.
  std::string remark{};         ///< What there is to say of the kernels; or empty.
};

/// "OpenBLAS with its kernels for Zen, 2 threads: 150.2 GFLOP/s", "oneDNN with AVX512_BF16, and OpenBLAS with its
/// kernels for Zen in attention, 1 thread: 450.1 GFLOP/s".
inline std::string describe(const MatrixProducts& products) {
  std::string text = products.library;
  if (!products.kernels.empty()) text += " with its kernels for " + products.kernels;
  if (!products.instructions.empty()) text = "oneDNN with " + products.instructions + ", and " + text + " in attention";
  if (products.threads > 0) text += fmt::format(", {} thread{}", products.threads, products.threads == 1 ? "" : "s");
  if (products.flops_per_second > 0) text += fmt::format(": {:.1f} GFLOP/s", products.flops_per_second / 1e9);
  return text;
}

/// Operations of the products of all steps on one rank: a multiply-add of each parameter and token in the forward pass,
/// two in the backward pass.
inline double flops_of_products(const Options& o) {
  const double tokens = static_cast<double>(o.schedule.steps * o.tokens_a_step()) / o.ranks;
  return 3 * 2 * tokens * static_cast<double>(o.model.parameters());
}

}  // namespace gpt
