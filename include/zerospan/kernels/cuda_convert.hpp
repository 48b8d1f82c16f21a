/// @file
/// Elements to and from floats on a CUDA device. For nvcc.
#pragma once

#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// One of the types is float32.
template <ElementType From, ElementType To>
struct CudaConversion {
  static constexpr std::size_t width = word_bytes / sizeof(float);
  static constexpr std::size_t packs = 4;
  const std::byte* from;
  std::byte* to;

  TileAlignment alignment() const {
    TileAlignment alignment;
    alignment.add(from, element_bytes(From), width);
    alignment.add(to, element_bytes(To), width);
    return alignment;
  }

  template <std::size_t Width, std::size_t Count>
  __host__ __device__ void operator()(std::size_t first, std::size_t stride) const {
    const auto elements = load_packs<From, Width, Count>(from, first, stride);
    finish_loads();
    for (std::size_t k = 0; k < Count; ++k) {
      store_pack<To, Width>(to, first + k * stride, to_elements<To>(to_floats<From>(elements[k])));
    }
  }
};

static_assert(TileWork<CudaConversion<ElementType::bfloat16, ElementType::float32>>);

template <ElementType From, ElementType To>
void convert(const CudaStream& stream, const char* name, const std::byte* from, std::byte* to, std::size_t elements) {
  if constexpr (From == To) {
    copy_bytes(stream, to, from, elements * element_bytes(To));
  } else {
    launch_tiles(stream, name, CudaConversion<From, To>{from, to}, elements);
  }
}

}  // namespace detail

/// Widens `elements` elements, exactly: the bits of `to_float`. The ranges do not overlap; each is in device memory or
/// pinned memory, and aligned to its type.
/// @note Enqueued. @throws CudaError if it cannot be.
inline void widen(const CudaStream& stream, ElementType type, const std::byte* from, float* to, std::size_t elements) {
  detail::dispatch_element_type(type, [&](auto source) {
    detail::convert<source.value, ElementType::float32>(stream, "widen", from, reinterpret_cast<std::byte*>(to),
                                                        elements);
  });
}

/// Rounds `elements` floats to `type`: the bits of `from_float`. Otherwise as `widen`.
inline void narrow(const CudaStream& stream, const float* from, ElementType type, std::byte* to, std::size_t elements) {
  detail::dispatch_element_type(type, [&](auto target) {
    detail::convert<ElementType::float32, target.value>(stream, "narrow", reinterpret_cast<const std::byte*>(from), to,
                                                        elements);
  });
}

}  // namespace zerospan::inline v0
