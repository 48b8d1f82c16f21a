/// @file
/// Kernels of conversions. For nvcc.
#pragma once

#include <cstddef>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>

namespace zerospan::inline v0::detail {

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
void convert(const CudaStream& stream, std::string_view name, const std::byte* from, std::byte* to,
             std::size_t elements) {
  if constexpr (From == To) {
    copy_bytes(stream, to, from, elements * element_bytes(To));
  } else {
    launch_tiles(stream, name, CudaConversion<From, To>{from, to}, elements);
  }
}

template <class Stream>
void launch_widening(const Stream& stream, ElementType type, const std::byte* from, float* to, std::size_t elements) {
  dispatch_element_type(type, [&](auto source) {
    convert<source.value, ElementType::float32>(stream, "widen", from, reinterpret_cast<std::byte*>(to), elements);
  });
}

template <class Stream>
void launch_narrowing(const Stream& stream, const float* from, ElementType type, std::byte* to, std::size_t elements) {
  dispatch_element_type(type, [&](auto target) {
    convert<ElementType::float32, target.value>(stream, "narrow", reinterpret_cast<const std::byte*>(from), to,
                                                elements);
  });
}

}  // namespace zerospan::inline v0::detail
