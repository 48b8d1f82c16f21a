/// @file
/// What one warp does at a time of adding a gradient to its accumulator: a pair of logical blocks. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/detail/cuda_block_squares.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

namespace zerospan::inline v0::detail {

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

}  // namespace zerospan::inline v0::detail
