/// @file
/// Elements of every format in the registers of a CUDA thread. For nvcc.
#pragma once

#if !defined(__CUDACC__)
#error "zerospan's kernels take nvcc, with -std=c++20 --expt-relaxed-constexpr; or link zerospan::compiled_cuda."
#include "zerospan stops here"
#endif

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>

namespace zerospan::inline v0::detail {

/// Consecutive elements as they are stored.
template <ElementType Type, std::size_t Width>
using Pack = std::array<Stored<Type>, Width>;

template <std::size_t Width>
using Floats = std::array<float, Width>;

/// How consecutive elements are reached: several by one instruction, where all operands are aligned for it, or each by
/// one.
enum class Access : std::uint8_t { vector, scalar };

/// The most bytes that one instruction loads or stores.
inline constexpr std::size_t word_bytes = 16;

/// What one instruction loads or stores.
template <std::size_t Bytes>
struct Word;
template <>
struct Word<2> {
  using Type = std::uint16_t;
};
template <>
struct Word<4> {
  using Type = std::uint32_t;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

/// The elements of `data` from `first` on, by one instruction: they are aligned to their size.
template <ElementType Type, std::size_t Width>
__host__ __device__ Pack<Type, Width> load_pack(const std::byte* data, std::size_t first) {
  using Loaded = typename Word<Width * element_bytes(Type)>::Type;
  return std::bit_cast<Pack<Type, Width>>(*reinterpret_cast<const Loaded*>(data + first * element_bytes(Type)));
}

/// Stores to where `load_pack` loads from.
template <ElementType Type, std::size_t Width>
__host__ __device__ void store_pack(std::byte* data, std::size_t first, const Pack<Type, Width>& elements) {
  using StoredWord = typename Word<Width * element_bytes(Type)>::Type;
  *reinterpret_cast<StoredWord*>(data + first * element_bytes(Type)) = std::bit_cast<StoredWord>(elements);
}

/// `Count` packs, `stride` elements apart: independent loads, under way at once.
template <ElementType Type, std::size_t Width, std::size_t Count>
__host__ __device__ std::array<Pack<Type, Width>, Count> load_packs(const std::byte* data, std::size_t first,
                                                                    std::size_t stride) {
  std::array<Pack<Type, Width>, Count> packs;
  for (std::size_t k = 0; k < Count; ++k) packs[k] = load_pack<Type, Width>(data, first + k * stride);
  return packs;
}

/// Keeps what was loaded above from being loaded below, after stores that it would wait for.
__host__ __device__ inline void finish_loads() {
#if defined(__CUDA_ARCH__)
  asm volatile("" ::: "memory");
#endif
}

template <ElementType Type, std::size_t Width>
__host__ __device__ Floats<Width> to_floats(const Pack<Type, Width>& elements) {
  Floats<Width> values;
  for (std::size_t i = 0; i < Width; ++i) values[i] = static_cast<float>(elements[i]);
  return values;
}

/// Rounds to nearest even, as `from_float`.
template <ElementType Type, std::size_t Width>
__host__ __device__ Pack<Type, Width> to_elements(const Floats<Width>& values) {
  Pack<Type, Width> elements;
  for (std::size_t i = 0; i < Width; ++i) elements[i] = Stored<Type>(values[i]);
  return elements;
}

}  // namespace zerospan::inline v0::detail
