/// @file
/// Kernels of block quantization. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/cuda_summed_inputs.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>

namespace zerospan::inline v0::detail {

/// A block is a warp's: each lane has four consecutive elements of its first half and four of the second, whose codes
/// are a word each of int8, and one word of int4.
struct QuantizedLane {
  static constexpr std::size_t lanes = 32;
  static constexpr std::size_t width = 4;
  static constexpr std::size_t halves = 2;
  static_assert(lanes * width * halves == quantized_block_elements && lanes * width == nibble_distance);

  using Values = std::array<Floats<width>, halves>;

  /// Where its elements of a half begin.
  __host__ __device__ std::size_t first(std::size_t half) const {
    return block * quantized_block_elements + half * nibble_distance + lane * width;
  }

  /// Its word number `word` of the codes of a block.
  template <class Byte>
  __host__ __device__ auto* codes(Byte* encoded, QuantizedType type, std::size_t word) const {
    using Code = std::conditional_t<std::is_const_v<Byte>, const std::uint32_t, std::uint32_t>;
    return reinterpret_cast<Code*>(encoded + block * encoded_block_bytes(type) + sizeof(float)) + word * lanes + lane;
  }

  template <class Byte>
  __host__ __device__ auto* scale(Byte* encoded, QuantizedType type) const {
    using Scale = std::conditional_t<std::is_const_v<Byte>, const float, float>;
    return reinterpret_cast<Scale*>(encoded + block * encoded_block_bytes(type));
  }

  std::size_t block;
  std::size_t lane;
};

/// Whether the elements of a lane, four at a time, can be reached by one instruction.
inline Access quantized_access(const std::byte* elements, ElementType type) {
  TileAlignment alignment;
  alignment.add(elements, element_bytes(type), QuantizedLane::width);
  return alignment.shift == 0 ? Access::vector : Access::scalar;
}

template <ElementType Element, QuantizedType Type>
struct CudaBlockEncoding {
  const std::byte* from;
  std::byte* to;
  std::size_t elements;
  Access access;

  /// Past the last element there are zeros.
  __host__ __device__ QuantizedLane::Values load(const QuantizedLane& lane) const {
    constexpr std::size_t width = QuantizedLane::width;
    QuantizedLane::Values values;
    for (std::size_t half = 0; half < QuantizedLane::halves; ++half) {
      const std::size_t first = lane.first(half);
      if (access == Access::vector && first + width <= elements) {
        values[half] = to_floats<Element>(load_pack<Element, width>(from, first));
      } else {
        for (std::size_t i = 0; i < width; ++i) {
          values[half][i] = first + i < elements ? to_floats<Element>(load_pack<Element, 1>(from, first + i))[0] : 0.0F;
        }
      }
    }
    return values;
  }

  static __host__ __device__ std::uint32_t largest(const QuantizedLane::Values& values) {
    std::uint32_t most = 0;
    for (const Floats<QuantizedLane::width>& half : values) {
      for (const float x : half) most = magnitude_bits(x) > most ? magnitude_bits(x) : most;
    }
    return most;
  }

  /// @param most The largest magnitude of the block, over all lanes.
  __host__ __device__ void store(const QuantizedLane& lane, const QuantizedLane::Values& values,
                                 std::uint32_t most) const {
    const float scale = block_scale(most, Type);
    std::array<std::uint32_t, QuantizedLane::halves> words{};
    if (has_codes(scale)) {
      for (std::size_t half = 0; half < QuantizedLane::halves; ++half) {
        constexpr std::uint32_t mask = Type == QuantizedType::int8 ? 0xffU : 0xfU;
        for (std::size_t i = 0; i < QuantizedLane::width; ++i) {
          words[half] |= (code_of(values[half][i], scale) & mask) << (8 * i);
        }
      }
    }
    if (lane.lane == 0) *lane.scale(to, Type) = scale;
    if constexpr (Type == QuantizedType::int8) {
      *lane.codes(to, Type, 0) = words[0];
      *lane.codes(to, Type, 1) = words[1];
    } else {
      *lane.codes(to, Type, 0) = words[0] | words[1] << 4;
    }
  }
};

template <ElementType Element, QuantizedType Type>
struct CudaBlockSum {
  std::array<const std::byte*, most_summed_inputs> inputs;
  std::size_t count;
  std::byte* to;
  std::size_t elements;
  Access access;

  static __host__ __device__ QuantizedLane::Values decode(const QuantizedLane& lane, const std::byte* encoded) {
    const float scale = *lane.scale(encoded, Type);
    QuantizedLane::Values values;
    for (std::size_t half = 0; half < QuantizedLane::halves; ++half) {
      const std::uint32_t word = *lane.codes(encoded, Type, Type == QuantizedType::int8 ? half : 0);
      for (std::size_t i = 0; i < QuantizedLane::width; ++i) {
        const int code = Type == QuantizedType::int8 ? static_cast<std::int8_t>(word >> (8 * i))
                                                     : nibble(word >> (8 * i + 4 * half));
        values[half][i] = static_cast<float>(code) * scale;
      }
    }
    return values;
  }

  __host__ __device__ void operator()(const QuantizedLane& lane) const {
    constexpr std::size_t width = QuantizedLane::width;
    QuantizedLane::Values sums = decode(lane, inputs[0]);
    for (std::size_t rank = 1; rank < count; ++rank) {
      const QuantizedLane::Values addends = decode(lane, inputs[rank]);
      for (std::size_t half = 0; half < QuantizedLane::halves; ++half) {
        for (std::size_t i = 0; i < width; ++i) sums[half][i] += addends[half][i];
      }
    }
    for (std::size_t half = 0; half < QuantizedLane::halves; ++half) {
      const std::size_t first = lane.first(half);
      if (access == Access::vector && first + width <= elements) {
        store_pack<Element, width>(to, first, to_elements<Element>(sums[half]));
      } else {
        for (std::size_t i = 0; i < width && first + i < elements; ++i) {
          store_pack<Element, 1>(to, first + i, to_elements<Element>(Floats<1>{sums[half][i]}));
        }
      }
    }
  }
};

inline constexpr std::size_t warps_of_block = tile_threads / QuantizedLane::lanes;

/// Calls `f(lane)` for each encoded block of the thread's warp.
template <class F>
__device__ void for_each_quantized_lane(std::size_t elements, F f) {
  const std::size_t warp = threadIdx.x / QuantizedLane::lanes;
  const std::size_t lane = threadIdx.x % QuantizedLane::lanes;
  for (std::size_t block = blockIdx.x * warps_of_block + warp; block < quantized_blocks(elements);
       block += gridDim.x * warps_of_block) {
    f(QuantizedLane{block, lane});
  }
}

template <ElementType Element, QuantizedType Type>
__global__ void __launch_bounds__(tile_threads, tile_residency)
    run_encoding(const __grid_constant__ CudaBlockEncoding<Element, Type> work) {
  for_each_quantized_lane(work.elements, [&](const QuantizedLane& lane) {
    const QuantizedLane::Values values = work.load(lane);
    std::uint32_t most = work.largest(values);
    for (int distance = QuantizedLane::lanes / 2; distance > 0; distance /= 2) {
      const std::uint32_t other = __shfl_xor_sync(0xffffffffU, most, distance);
      most = other > most ? other : most;
    }
    work.store(lane, values, most);
  });
}

template <ElementType Element, QuantizedType Type>
__global__ void __launch_bounds__(tile_threads, tile_residency)
    run_block_sum(const __grid_constant__ CudaBlockSum<Element, Type> work) {
  for_each_quantized_lane(work.elements, [&](const QuantizedLane& lane) { work(lane); });
}

inline LaunchShape shape_of_blocks(std::size_t elements) {
  return {.work = (quantized_blocks(elements) + warps_of_block - 1) / warps_of_block,
          .threads = tile_threads,
          .residency = tile_residency};
}

/// Calls `f` with both types as types.
template <class F>
void dispatch_quantization(ElementType element, QuantizedType type, F f) {
  dispatch_element_type(element, [&](auto e) {
    if (type == QuantizedType::int8) {
      f(e, std::integral_constant<QuantizedType, QuantizedType::int8>{});
    } else {
      f(e, std::integral_constant<QuantizedType, QuantizedType::int4>{});
    }
  });
}

template <class Stream>
void launch_encoding(const Stream& stream, ElementType element, const std::byte* from, QuantizedType type,
                     std::byte* to, std::size_t elements) {
  dispatch_quantization(element, type, [&](auto e, auto t) {
    const CudaBlockEncoding<e.value, t.value> work{from, to, elements, quantized_access(from, element)};
    launch(stream, "the encoding of blocks", shape_of_blocks(elements), &run_encoding<e.value, t.value>, work);
  });
}

template <class Stream>
void launch_block_sum(const Stream& stream, std::span<const std::byte* const> inputs, QuantizedType type,
                      ElementType element, std::byte* to, std::size_t elements) {
  dispatch_quantization(element, type, [&](auto e, auto t) {
    CudaBlockSum<e.value, t.value> work{{}, inputs.size(), to, elements, quantized_access(to, element)};
    std::ranges::copy(inputs, work.inputs.begin());
    launch(stream, "the sum of encoded blocks", shape_of_blocks(elements), &run_block_sum<e.value, t.value>, work);
  });
}

}  // namespace zerospan::inline v0::detail
