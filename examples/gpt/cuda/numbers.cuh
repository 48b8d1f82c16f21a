/// @file
/// Elements in a kernel: read and written as floats, several at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../tensor.hpp"

namespace gpt::cuda {

inline __device__ float widened(float value) { return value; }
inline __device__ float widened(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
inline __device__ float widened(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

/// The number of type E nearest to `value`.
template <class E>
__device__ E rounded(float value) {
  if constexpr (std::is_same_v<E, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else if constexpr (std::is_same_v<E, Float16>) {
    return {__half_as_ushort(__float2half_rn(value))};
  } else {
    return value;
  }
}

/// Elements that are read or written by one instruction, or few.
template <class E, int N>
struct alignas(sizeof(E) * N) Pack {
  E values[N];
};

/// @param from Aligned to N elements.
template <int N, class E>
__device__ void load(const E* from, float (&to)[N]) {
  const Pack<E, N> pack = *reinterpret_cast<const Pack<E, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = widened(pack.values[i]);
}

/// @param to Aligned to N elements.
template <int N, class E>
__device__ void store(const float (&from)[N], E* to) {
  Pack<E, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.values[i] = rounded<E>(from[i]);
  *reinterpret_cast<Pack<E, N>*>(to) = pack;
}

/// Whether every row of every tensor is whole packs of N, and aligned to them.
template <int N, class... E>
bool is_packed(const Tensor<E>&... tensors) {
  const auto one = [](const auto& tensor) {
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
    return tensor.columns % N == 0 && tensor.stride % N == 0 && address % (N * sizeof(*tensor.data)) == 0;
  };
  return (one(tensors) && ...);
}

}  // namespace gpt::cuda
