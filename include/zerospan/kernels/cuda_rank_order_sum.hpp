/// @file
/// The sum in rank order on a CUDA device. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// The most inputs of one sum: their addresses are parameters of the kernel.
inline constexpr std::size_t most_summed_inputs = 256;

template <ElementType Input, ElementType Output>
struct CudaRankOrderSum {
  static constexpr std::size_t width = word_bytes / std::max(element_bytes(Input), element_bytes(Output));
  static constexpr std::size_t packs = 2;

  CudaRankOrderSum(std::span<const std::byte* const> of, std::byte* to) : count{of.size()}, output{to} {
    std::ranges::copy(of, inputs.begin());
  }

  TileAlignment alignment() const {
    TileAlignment alignment;
    alignment.add(output, element_bytes(Output), width);
    for (const std::byte* const input : std::span{inputs}.first(count)) {
      alignment.add(input, element_bytes(Input), width);
    }
    return alignment;
  }

  template <std::size_t Width, std::size_t Count>
  __host__ __device__ void operator()(std::size_t first, std::size_t stride) const {
    std::array<Floats<Width>, Count> sums;
    const auto rank_0 = load_packs<Input, Width, Count>(inputs[0], first, stride);
    for (std::size_t k = 0; k < Count; ++k) sums[k] = to_floats<Input>(rank_0[k]);
    for (std::size_t rank = 1; rank < count; ++rank) {
      const auto addends = load_packs<Input, Width, Count>(inputs[rank], first, stride);
      for (std::size_t k = 0; k < Count; ++k) {
        const Floats<Width> values = to_floats<Input>(addends[k]);
        for (std::size_t i = 0; i < Width; ++i) sums[k][i] += values[i];
      }
    }
    for (std::size_t k = 0; k < Count; ++k) {
      store_pack<Output, Width>(output, first + k * stride, to_elements<Output>(sums[k]));
    }
  }

  std::array<const std::byte*, most_summed_inputs> inputs{};
  std::size_t count;
  std::byte* output;
};

static_assert(TileWork<CudaRankOrderSum<ElementType::bfloat16, ElementType::float32>>);

}  // namespace detail

/// The bits of `rank_order_sum` on the CPU (of a NaN, that it is one), and its conditions, but for these: every operand
/// is in device memory or pinned memory, and aligned to its type; the inputs are at most 256.
/// @note Enqueued; the span may go before it is done. @throws ConfigurationError of more inputs; CudaError if it cannot
/// be enqueued.
inline void rank_order_sum(const CudaStream& stream, std::span<const std::byte* const> inputs, ElementType input_type,
                           std::byte* output, ElementType output_type, std::size_t elements) {
  if (inputs.size() > detail::most_summed_inputs) {
    throw_configuration_error("a sum of " + std::to_string(inputs.size()) + " ranks on a CUDA device; at most " +
                              std::to_string(detail::most_summed_inputs) + " can be summed");
  }
  if (inputs.size() == 1 && input_type == output_type) {
    return copy_bytes(stream, output, inputs[0], elements * element_bytes(input_type));
  }
  const auto sum = [&](const auto& work) { detail::launch_tiles(stream, "the sum in rank order", work, elements); };
  detail::dispatch_element_type(input_type, [&](auto type) {
    if (output_type == ElementType::float32) {
      sum(detail::CudaRankOrderSum<type.value, ElementType::float32>{inputs, output});
    } else {
      sum(detail::CudaRankOrderSum<type.value, type.value>{inputs, output});
    }
  });
}

}  // namespace zerospan::inline v0
