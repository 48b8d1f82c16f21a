// Expected: the kernels of this device's streams are not visible here \(StreamKernels\): include zerospan/cuda.hpp
#include "setting.hpp"

#include <zerospan/kernels/stream_kernels.hpp>

namespace my {

struct Stream {
  operator zerospan::StreamRef() const { return zerospan::calling_thread; }
};

struct Lanes {
  using stream_type = Stream;
};

struct Device {
  using lanes_type = Lanes;
};

#if defined(FIXED)
void copy_bytes(Stream& stream, std::byte* to, const std::byte* from, std::size_t bytes);
void fill_zero(Stream& stream, std::byte* to, std::size_t bytes);
void widen(Stream& stream, zerospan::ElementType type, const std::byte* from, float* to, std::size_t elements);
void narrow(Stream& stream, const float* from, zerospan::ElementType type, std::byte* to, std::size_t elements);
void add_gradient(Stream& stream, const zerospan::GradientAddition& addition);
#endif

}  // namespace my

static_assert(zerospan::detail::require_stream_kernels<my::Device>());
