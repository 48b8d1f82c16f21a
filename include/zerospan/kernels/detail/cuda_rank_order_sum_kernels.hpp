/// @file
/// Kernels of sums in rank order. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_summed_inputs.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>

namespace zerospan::inline v0::detail {

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

template <class Stream>
void launch_rank_order_sum(const Stream& stream, std::span<const std::byte* const> inputs, ElementType input_type,
                           std::byte* output, ElementType output_type, std::size_t elements) {
  const auto sum = [&](const auto& work) { launch_tiles(stream, "the sum in rank order", work, elements); };
  dispatch_element_type(input_type, [&](auto type) {
    if (output_type == ElementType::float32) {
      sum(CudaRankOrderSum<type.value, ElementType::float32>{inputs, output});
    } else {
      sum(CudaRankOrderSum<type.value, type.value>{inputs, output});
    }
  });
}

}  // namespace zerospan::inline v0::detail
