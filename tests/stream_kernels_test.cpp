#include <cstddef>
#include <type_traits>

#include <doctest/doctest.h>

#include <zerospan/core/stream.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/kernels/stream_kernels.hpp>

#include "support/fake_gpu_operations.hpp"
#include "support/fake_gpu_runtime.hpp"

namespace {

using zerospan::QuantizesBlocks;
using zerospan::StreamKernels;
using zerospan::StreamRef;
using zerospan::SumsRanks;

/// Becomes a stream of the host's by itself, and has no kernels of its own: the host's would run on device memory.
struct Treacherous {
  operator StreamRef() const { return zerospan::calling_thread; }
};
struct Derived : StreamRef {
  using StreamRef::StreamRef;
};

struct OnlyCopies {};
[[maybe_unused]] void copy_bytes(OnlyCopies&, std::byte*, const std::byte*, std::size_t) {}
[[maybe_unused]] void fill_zero(OnlyCopies&, std::byte*, std::size_t) {}

template <class S>
constexpr bool has_any = StreamKernels<S> || SumsRanks<S> || QuantizesBlocks<S>;

TEST_CASE("kernels belong to their own type of streams") {
  static_assert(StreamKernels<zerospan_test::FakeStream>);
  static_assert(SumsRanks<zerospan_test::FakeStream> && QuantizesBlocks<zerospan_test::FakeStream>);
  static_assert(!has_any<Treacherous>);
  static_assert(!StreamKernels<OnlyCopies>, "the rest is missing");
  static_assert(!has_any<void*>);
  static_assert(StreamKernels<const StreamRef>);
  static_assert(std::is_base_of_v<StreamRef, Derived> && !has_any<Derived>);
}

TEST_CASE("the host's kernels are done when they return") {
  CHECK(zerospan::detail::require_stream_kernels<zerospan::HostDevice>());
  const float numbers[]{1.5F, -2.0F};
  float copies[2]{};
  StreamRef stream = zerospan::calling_thread;
  zerospan::copy_bytes(stream, reinterpret_cast<std::byte*>(copies), reinterpret_cast<const std::byte*>(numbers), 8);
  CHECK(copies[1] == -2.0F);
  zerospan::fill_zero(zerospan::calling_thread, reinterpret_cast<std::byte*>(copies), 4);
  CHECK(copies[0] == 0.0F);
  std::byte halves[4]{};
  zerospan::narrow(stream, numbers, zerospan::ElementType::bfloat16, halves, 2);
  zerospan::widen(stream, zerospan::ElementType::bfloat16, halves, copies, 2);
  CHECK(copies[0] == 1.5F);
  const std::byte* const inputs[]{reinterpret_cast<const std::byte*>(numbers), reinterpret_cast<std::byte*>(copies)};
  zerospan::rank_order_sum(stream, inputs, zerospan::ElementType::float32, reinterpret_cast<std::byte*>(copies),
                           zerospan::ElementType::float32, 2);
  CHECK(copies[0] == 3.0F);
}

}  // namespace
