/// @file
/// Element-wise work cut into tiles, each by a block of threads: vector accesses wherever the operands allow. For nvcc.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>

namespace zerospan::inline v0::detail {

/// The threads of a block.
inline constexpr std::size_t tile_threads = 256;

/// Blocks that a multiprocessor is to hold at once: a thread may have 64 registers.
inline constexpr std::size_t tile_residency = 4;

/// Where vector accesses may begin.
struct TileAlignment {
  /// Takes account of an operand whose elements are aligned to their own size.
  /// @param width Elements of a vector.
  void add(const void* operand, std::size_t bytes_of_element, std::size_t width) {
    const auto address = reinterpret_cast<std::uintptr_t>(operand);
    const std::size_t before = address % (width * bytes_of_element) / bytes_of_element;
    if (operands++ == 0) shift = before;
    if (before != shift) access = Access::scalar;
  }

  Access access = Access::vector;  ///< `scalar` if no element begins a vector of every operand.
  unsigned operands = 0;
  std::size_t shift = 0;  ///< Elements between the last vector boundary before the operands, and the operands.
};

/// What a kernel does with a range of elements.
///
/// @concept
/// - `W::width` is the number of elements of a vector access, `W::packs` how many vectors a thread treats at once;
/// - `work.alignment()` takes account of its operands;
/// - `work.template operator()<Width, Count>(first, stride)` treats `Count` packs of `Width` elements that begin at
///   `first + k * stride`. It loads all of them before it stores any.
template <class W>
concept TileWork = requires(const W& work, std::size_t i) {
  { work.alignment() } -> std::same_as<TileAlignment>;
  work.template operator()<W::width, W::packs>(i, i);
  work.template operator()<1, 1>(i, i);
};

template <TileWork Work>
constexpr std::size_t tile_elements() {
  return tile_threads * Work::packs * Work::width;
}

/// The tiles of `elements` elements. Tiles begin at vector boundaries: the first may be short as well as the last.
template <TileWork Work>
__host__ __device__ std::size_t tile_count(const TileAlignment& alignment, std::size_t elements) {
  return elements == 0 ? 0 : (alignment.shift + elements + tile_elements<Work>() - 1) / tile_elements<Work>();
}

/// A thread's part of a short tile, [begin, end): first whole vectors, then the elements at both ends.
template <TileWork Work>
__host__ __device__ void run_short_tile(const Work& work, const TileAlignment& alignment, std::size_t begin,
                                        std::size_t end, std::size_t thread) {
  constexpr std::size_t width = Work::width;
  std::size_t inner_begin = begin;
  std::size_t inner_end = begin;
  if (alignment.access == Access::vector) {
    const std::size_t whole_begin = (begin + width - 1) / width * width;
    const std::size_t whole_end = end / width * width;
    if (whole_begin < whole_end) {
      inner_begin = whole_begin;
      inner_end = whole_end;
    }
  }
  for (std::size_t i = inner_begin + thread * width; i < inner_end; i += tile_threads * width) {
    work.template operator()<width, 1>(i - alignment.shift, 0);
  }
  const std::size_t outer = (inner_begin - begin) + (end - inner_end);
  for (std::size_t k = thread; k < outer; k += tile_threads) {
    const std::size_t i = begin + k;
    work.template operator()<1, 1>((i < inner_begin ? i : i + (inner_end - inner_begin)) - alignment.shift, 0);
  }
}

/// A thread's part of tile number `tile`.
template <TileWork Work>
__host__ __device__ void run_tile(const Work& work, const TileAlignment& alignment, std::size_t elements,
                                  std::size_t tile, std::size_t thread) {
  constexpr std::size_t size = tile_elements<Work>();
  const std::size_t first = alignment.shift;  // positions count from a vector boundary
  const std::size_t last = alignment.shift + elements;
  const std::size_t begin = tile * size;
  if (alignment.access == Access::vector && begin >= first && begin + size <= last) {
    work.template operator()<Work::width, Work::packs>(begin - first + thread * Work::width,
                                                       tile_threads * Work::width);
  } else {
    run_short_tile(work, alignment, begin < first ? first : begin, begin + size < last ? begin + size : last, thread);
  }
}

/// Each block of threads takes every `blocks`-th tile.
template <TileWork Work>
__host__ __device__ void run_tiles_of(const Work& work, const TileAlignment& alignment, std::size_t elements,
                                      std::size_t block, std::size_t blocks, std::size_t thread) {
  const std::size_t tiles = tile_count<Work>(alignment, elements);
  for (std::size_t tile = block; tile < tiles; tile += blocks) run_tile(work, alignment, elements, tile, thread);
}

template <TileWork Work>
__global__ void __launch_bounds__(tile_threads, tile_residency)
    run_tiles(const __grid_constant__ Work work, const __grid_constant__ TileAlignment alignment,
              const std::size_t elements) {
  run_tiles_of(work, alignment, elements, blockIdx.x, gridDim.x, threadIdx.x);
}

/// Enqueues `work` for `elements` elements.
/// @param name What it does, for the error. @throws CudaError if it cannot be launched.
template <TileWork Work>
void launch_tiles(const CudaStream& stream, std::string_view name, const Work& work, std::size_t elements) {
  const TileAlignment alignment = work.alignment();
  launch(stream, name,
         {.work = tile_count<Work>(alignment, elements), .threads = tile_threads, .residency = tile_residency},
         &run_tiles<Work>, work, alignment, elements);
}

}  // namespace zerospan::inline v0::detail
