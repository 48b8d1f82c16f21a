/// @file
/// Whether weights in bf16 are multiplied as they are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <fmt/format.h>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

#include "bf16_products.hpp"
#include "factor.hpp"
#include "options.hpp"
#include "products.hpp"
#include "scratch.hpp"
#include "tensor.hpp"
#include "trial.hpp"

namespace gpt {

/// Whether NarrowProducts take less time than WideProducts of the same weights, by trial, once in a process. A
/// processor's instructions for bf16 may do twice as much as those for fp32 (AMX, AVX512_BF16 on Zen 4 and later) or
/// less (AVX512_BF16 on Sapphire Rapids). False where there are none.
/// @param threads Of a product.
inline bool narrow_products_are_faster(int threads) {
  static const bool answer = [threads] {
    if (Bf16Products::instructions().empty()) return false;
    constexpr std::size_t rows = 256;
    constexpr std::size_t width = 768;
    const std::vector<float> x(rows * width, 1.0F);
    std::vector<BFloat16> weight(width * width, to_bfloat16(0.01F));
    std::vector<float> y(rows * width);
    Scratch<BFloat16> scratch{width * width};
    const auto seconds = [&](auto products) {
      return least_seconds([&] {
        products.multiply(Tensor<const float>{x.data(), rows, width},
                          transposed(products.operand(scratch, {weight.data(), width, width})),
                          Tensor<float>{y.data(), rows, width}, Assignment::replace);
      });
    };
    return seconds(NarrowProducts{threads}) < seconds(WideProducts<BFloat16>{});
  }();
  return answer;
}

/// Whether all ranks multiply weights in bf16: a collective, whose answer is the same on each.
/// @param can_here Whether this rank's processor can, or, where the fastest are wanted, is faster then.
/// @throws zerospan::ConfigurationError if products in bf16 are wanted, and a rank cannot.
inline bool agree_on_narrow_products(zerospan::AnyCommunicator& ranks, Products wanted, bool can_here) {
  std::array<std::int64_t, 1> without{can_here ? 0 : 1};
  ranks.all_reduce({zerospan::calling_thread, "ranks without products in bf16"}, without);
  if (without[0] > 0 && wanted == Products::bf16) {
    zerospan::throw_configuration_error(
        fmt::format("--products bf16: {} of {} ranks have none: their processor has no instructions for bf16, or "
                    "ONEDNN_MAX_CPU_ISA forbids them, or this train_gpt was built without oneDNN",
                    without[0], ranks.size()));
  }
  return without[0] == 0;
}

}  // namespace gpt
