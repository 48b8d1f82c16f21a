/// @file
/// sim::Stream: what posted work of a simulated device enqueues on. It prices and does nothing.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/sim/detail/recording.hpp>

namespace zerospan::inline v0::sim {

namespace detail {

/// An item that is being described: its work runs, and says what it would do.
class ItemBeingPosted {
 public:
  ItemBeingPosted() = default;
  ItemBeingPosted(const ItemBeingPosted&) = delete;
  ItemBeingPosted& operator=(const ItemBeingPosted&) = delete;
  virtual ~ItemBeingPosted() = default;

  virtual void copies(const std::byte* to, const std::byte* from, std::size_t bytes) = 0;
  /// A kernel reads and writes so many bytes.
  virtual void touches(std::size_t bytes) = 0;
  /// A collective has added its part.
  virtual void call_ends(OperationKind kind, std::string_view name) = 0;

  std::vector<Part> parts;
};

}  // namespace detail

/// A non-owning reference to the stream of a simulated lane, or to a simulated device's own (`stream()`).
class Stream {
 public:
  explicit Stream(detail::ItemBeingPosted& item) noexcept : item_{&item} {}

  /// @throws ConfigurationError if `stream` is the calling thread.
  explicit Stream(StreamRef stream) : item_{static_cast<detail::ItemBeingPosted*>(stream.native_handle())} {
    if (!item_) throw_configuration_error("a simulated stream is needed, not the calling thread");
  }

  explicit operator StreamRef() const noexcept { return StreamRef{static_cast<void*>(item_)}; }

  detail::ItemBeingPosted& item() const noexcept { return *item_; }

 private:
  detail::ItemBeingPosted* item_;
};

inline void copy_bytes(const Stream& stream, std::byte* to, const std::byte* from, std::size_t bytes) {
  if (to != from) stream.item().copies(to, from, bytes);
}

inline void fill_zero(const Stream& stream, std::byte*, std::size_t bytes) { stream.item().touches(bytes); }

inline void widen(const Stream& stream, ElementType type, const std::byte*, float*, std::size_t elements) {
  stream.item().touches(elements * (element_bytes(type) + sizeof(float)));
}

inline void narrow(const Stream& stream, const float*, ElementType type, std::byte*, std::size_t elements) {
  stream.item().touches(elements * (element_bytes(type) + sizeof(float)));
}

/// Priced as the item that it is part of.
inline void add_gradient(const Stream&, const GradientAddition&) noexcept {}

inline void encode_blocks(const Stream& stream, ElementType element, const std::byte*, QuantizedType type, std::byte*,
                          std::size_t elements) {
  stream.item().touches(elements * element_bytes(element) + encoded_bytes(elements, type));
}

inline void sum_blocks(const Stream& stream, std::span<const std::byte* const> inputs, QuantizedType type,
                       ElementType element, std::byte*, std::size_t elements) {
  stream.item().touches(inputs.size() * encoded_bytes(elements, type) + elements * element_bytes(element));
}

/// Priced as the item that it is part of.
template <Optimizer O>
void update(const Stream&, const O&, std::span<const ShardUpdate>) noexcept {}

}  // namespace zerospan::inline v0::sim
