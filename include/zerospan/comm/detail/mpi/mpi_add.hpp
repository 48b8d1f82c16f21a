/// @file
/// How operands from several processes are added up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

namespace zerospan::inline v0::detail {

/// Sums of numbers, in rank order.
struct RankOrderSum {
  ElementType input_type;
  ElementType output_type;

  void operator()(std::span<const std::byte* const> inputs, std::byte* output, std::size_t elements) const noexcept {
    rank_order_sum(inputs, input_type, output, output_type, elements);
  }
};

/// Exact sums of 64-bit integers. No operand need be aligned.
struct IntegerSum {
  void operator()(std::span<const std::byte* const> inputs, std::byte* output, std::size_t elements) const noexcept {
    for (std::size_t i = 0; i < elements; ++i) {
      std::uint64_t sum = 0;
      for (const std::byte* const input : inputs) {
        std::uint64_t addend = 0;
        std::memcpy(&addend, input + i * sizeof addend, sizeof addend);
        sum += addend;
      }
      std::memcpy(output + i * sizeof sum, &sum, sizeof sum);
    }
  }
};

}  // namespace zerospan::inline v0::detail
