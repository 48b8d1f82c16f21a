/// @file
/// Kernels by which gradients join their accumulators: one pass over memory, with the norm. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/detail/gradient_kernels.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

namespace zerospan::inline v0::detail {

/// A warp has 32 threads and a block 16 lanes of sums, each with an order of its own: a warp sums two blocks. Elements
/// come from memory coalesced, a chunk of both blocks at a time, and reach the lane that sums them through this.
///
/// Only whole warps call; between `put` and `add_to`, and before the next `put`, the warp is synchronized.
struct WarpChunk {
  static constexpr std::size_t threads = 32;
  static constexpr std::size_t lanes = std::tuple_size_v<NormLanes>;
  static constexpr std::size_t blocks = threads / lanes;
  static constexpr std::size_t rows = 16;
  static constexpr std::size_t row_elements = rows * lanes;            ///< Of one block.
  static constexpr std::size_t elements = blocks * row_elements;       ///< Of both.
  static constexpr std::size_t count = block_elements / row_elements;  ///< Chunks in a block.
  static constexpr std::size_t pair_elements = blocks * block_elements;

  /// Where position `position` of chunk number `chunk` is in the pair of blocks.
  static __host__ __device__ std::size_t offset(std::size_t chunk, std::size_t position) {
    return position / row_elements * block_elements + chunk * row_elements + position % row_elements;
  }

  /// Puts the elements at the positions from `position` on, a multiple of `Width`.
  template <std::size_t Width>
  __host__ __device__ void put(std::size_t position, const Floats<Width>& squared) {
    float* const to = values.data() + place(position);
    if constexpr (Width == 1) {
      *to = squared[0];
    } else {
      for (std::size_t i = 0; i < Width; i += 4) {
        *reinterpret_cast<float4*>(to + i) = {squared[i], squared[i + 1], squared[i + 2], squared[i + 3]};
      }
    }
  }

  /// Adds the squares of a thread's lane to its sum.
  __host__ __device__ void add_to(double& sum, std::size_t thread) const {
    const float* const lane = values.data() + place(thread / lanes * row_elements) + thread % lanes;
    for (std::size_t row = 0; row < rows; ++row) {
      const auto x = static_cast<double>(lane[row * lanes]);
      sum += x * x;  // the square of a float is exact in double: fused or not, the bits are the same
    }
  }

  /// The blocks lie 16 banks apart, so that both halves of a warp read at once.
  static __host__ __device__ std::size_t place(std::size_t position) {
    return position + position / row_elements * lanes;
  }

  alignas(16) std::array<float, elements + blocks * lanes> values;
};

/// Two logical blocks of an addition, chunk by chunk. Thread t of the warp treats, of each chunk, the packs t, t + 32,
/// ...: `load` brings them into registers, `finish` stores the results, and leaves what is to be squared in
/// `WarpChunk`.
template <ElementType Type, ElementType Source, Addition Kind>
class GradientPair {
 public:
  /// Elements of a vector access.
  static constexpr std::size_t width = word_bytes / std::max(element_bytes(Type), element_bytes(Source));

  template <std::size_t Width>
  static constexpr std::size_t packs = WarpChunk::elements / WarpChunk::threads / Width;

  template <std::size_t Width>
  struct Loaded {
    std::array<Pack<Source, Width>, packs<Width>> source;
    std::array<Pack<Type, Width>, Kind == Addition::add ? packs<Width> : 1> target;
  };

  /// What fits the operands.
  static Access access(const GradientAddition& what) {
    const auto target = reinterpret_cast<std::uintptr_t>(what.target);
    const auto source = reinterpret_cast<std::uintptr_t>(what.source);
    const bool fits = target % (width * element_bytes(Type)) == 0 && source % (width * element_bytes(Source)) == 0;
    return fits ? Access::vector : Access::scalar;
  }

  /// @param first The pair's first element.
  __host__ __device__ GradientPair(const GradientAddition& what, std::size_t first) : what_{what}, first_{first} {}

  /// Whether all elements of the pair are there; else the width has to be 1.
  __host__ __device__ bool is_whole() const { return first_ + WarpChunk::pair_elements <= what_.elements; }

  /// Whether some elements of the pair may be squared.
  __host__ __device__ bool has_norm() const {
    return what_.norm_begin < first_ + WarpChunk::pair_elements && first_ < what_.norm_end &&
           what_.norm_begin < what_.norm_end;
  }

  template <std::size_t Width>
  __host__ __device__ Loaded<Width> load(std::size_t chunk, std::size_t thread) const {
    Loaded<Width> loaded{};
    for (std::size_t k = 0; k < packs<Width>; ++k) {
      const std::size_t i = element<Width>(chunk, thread, k);
      if (!is_there<Width>(i)) continue;
      loaded.source[k] = load_pack<Source, Width>(what_.source, i);
      if constexpr (Kind == Addition::add) loaded.target[k] = load_pack<Type, Width>(what_.target, i);
    }
    finish_loads();
    return loaded;
  }

  template <std::size_t Width>
  __host__ __device__ void finish(std::size_t chunk, std::size_t thread, const Loaded<Width>& loaded,
                                  WarpChunk& squared) const {
    for (std::size_t k = 0; k < packs<Width>; ++k) {
      const std::size_t i = element<Width>(chunk, thread, k);
      const Pack<Type, Width> result = sum<Width>(loaded, k);
      if (is_there<Width>(i)) store_pack<Type, Width>(what_.target, i, result);
      if (has_norm()) squared.put<Width>(position<Width>(thread, k), counted<Width>(i, to_floats<Type>(result)));
    }
  }

 private:
  /// Where pack `k` of a thread lies in each chunk.
  template <std::size_t Width>
  static __host__ __device__ std::size_t position(std::size_t thread, std::size_t k) {
    return (k * WarpChunk::threads + thread) * Width;
  }

  template <std::size_t Width>
  __host__ __device__ std::size_t element(std::size_t chunk, std::size_t thread, std::size_t k) const {
    return first_ + WarpChunk::offset(chunk, position<Width>(thread, k));
  }

  template <std::size_t Width>
  __host__ __device__ bool is_there(std::size_t i) const {
    return Width > 1 || i < what_.elements;
  }

  template <std::size_t Width>
  static __host__ __device__ Pack<Type, Width> sum(const Loaded<Width>& loaded, std::size_t k) {
    if constexpr (Kind == Addition::add) {
      Floats<Width> sums = to_floats<Type>(loaded.target[k]);
      const Floats<Width> addends = to_floats<Source>(loaded.source[k]);
      for (std::size_t i = 0; i < Width; ++i) sums[i] += addends[i];
      return to_elements<Type>(sums);
    } else if constexpr (Type == Source) {
      return loaded.source[k];
    } else {
      return to_elements<Type>(to_floats<Source>(loaded.source[k]));
    }
  }

  /// The values from element `i` on that are squared; zeros for the others.
  template <std::size_t Width>
  __host__ __device__ Floats<Width> counted(std::size_t i, Floats<Width> values) const {
    if (what_.norm_begin <= first_ && first_ + WarpChunk::pair_elements <= what_.norm_end) return values;
    for (std::size_t j = 0; j < Width; ++j) {
      if (i + j < what_.norm_begin || i + j >= what_.norm_end) values[j] = 0;
    }
    return values;
  }

  const GradientAddition& what_;
  std::size_t first_;
};

/// Blocks are small, so that a short gradient is spread over many multiprocessors.
inline constexpr std::size_t addition_threads = 128;
inline constexpr std::size_t addition_residency = 8;
inline constexpr std::size_t addition_warps = addition_threads / WarpChunk::threads;

/// Adds the limbs of `term` to `limbs`, which other threads add to as well.
__device__ inline void add_limbs(unsigned long long* limbs, double term) {
  const ExactSum::Parts parts = ExactSum::parts(term);
  for (std::size_t i = 0; i < parts.values.size(); ++i) {
    if (i < parts.count && parts.values[i] != 0) {
      atomicAdd(limbs + parts.first + i, static_cast<unsigned long long>(parts.values[i]));
    }
  }
}

/// Treats pair number `pair` of blocks, by a warp. @return In the first thread of each half of the warp, the sum of the
/// squares of that half's block.
template <class Pair, std::size_t Width>
__device__ double add_pair(const Pair& pair, WarpChunk& chunk, std::size_t thread) {
  double sum = 0;
  auto loaded = pair.template load<Width>(0, thread);
  for (std::size_t c = 0; c < WarpChunk::count; ++c) {
    pair.template finish<Width>(c, thread, loaded, chunk);
    if (c + 1 < WarpChunk::count) loaded = pair.template load<Width>(c + 1, thread);
    if (pair.has_norm()) {
      __syncwarp();
      chunk.add_to(sum, thread);
      __syncwarp();
    }
  }
  for (unsigned width = WarpChunk::lanes / 2; width > 0; width /= 2) {
    sum += __shfl_down_sync(0xffffffffU, sum, width, WarpChunk::lanes);
  }
  return sum;
}

/// Each warp takes pairs of blocks. Norms are gathered in the block's own limbs before they reach `what.limbs`.
template <class Pair>
__global__ void __launch_bounds__(addition_threads, addition_residency)
    add_gradient_pairs(const __grid_constant__ GradientAddition what, const Access access) {
  __shared__ std::array<WarpChunk, addition_warps> chunks;
  __shared__ std::array<unsigned long long, ExactSum::limb_count> limbs;
  for (std::size_t k = threadIdx.x; k < limbs.size(); k += addition_threads) limbs[k] = 0;
  __syncthreads();

  const std::size_t thread = threadIdx.x % WarpChunk::threads;
  const std::size_t warp = threadIdx.x / WarpChunk::threads;
  WarpChunk& chunk = chunks[warp];
  for (std::size_t first = (blockIdx.x * addition_warps + warp) * WarpChunk::pair_elements; first < what.elements;
       first += gridDim.x * addition_warps * WarpChunk::pair_elements) {
    const Pair pair{what, first};
    const double sum = access == Access::vector && pair.is_whole() ? add_pair<Pair, Pair::width>(pair, chunk, thread)
                                                                   : add_pair<Pair, 1>(pair, chunk, thread);
    if (thread % WarpChunk::lanes == 0) add_limbs(limbs.data(), sum);
  }

  __syncthreads();
  auto* const all = reinterpret_cast<unsigned long long*>(what.limbs);
  for (std::size_t k = threadIdx.x; k < limbs.size(); k += addition_threads) {
    if (limbs[k] != 0) atomicAdd(all + k, limbs[k]);
  }
}

/// Calls `use` with the `std::type_identity` of the `GradientPair` of an addition.
template <class Use>
void visit_pair(const GradientAddition& what, Use use) {
  const auto visit = [&]<ElementType Type, ElementType Source>(ElementConstant<Type>, ElementConstant<Source>) {
    if (what.addition == Addition::add) {
      use(std::type_identity<GradientPair<Type, Source, Addition::add>>{});
    } else {
      use(std::type_identity<GradientPair<Type, Source, Addition::replace>>{});
    }
  };
  dispatch_element_type(what.source_type, [&](auto source) {
    if (what.type == ElementType::float32) {
      visit(ElementConstant<ElementType::float32>{}, source);
    } else {
      visit(source, source);
    }
  });
}

template <class Stream>
void launch_addition(const Stream& stream, const GradientAddition& what) {
  constexpr std::size_t per_block = addition_warps * WarpChunk::pair_elements;
  visit_pair(what, [&]<class Pair>(std::type_identity<Pair>) {
    launch(stream, "the addition of a gradient",
           {.work = (what.elements + per_block - 1) / per_block,
            .threads = addition_threads,
            .residency = addition_residency},
           &add_gradient_pairs<Pair>, what, Pair::access(what));
  });
}

}  // namespace zerospan::inline v0::detail
