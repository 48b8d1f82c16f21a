/// @file
/// DLPack's DLTensor as a host tensor, to hand to any framework that takes one. Needs dlpack.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <dlpack/dlpack.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace zerospan::inline v0 {

/// DLPack's name of a storage format.
constexpr DLDataType dlpack_type(ElementType type) noexcept {
  const auto bits = static_cast<std::uint8_t>(8 * element_bytes(type));
  return {type == ElementType::bfloat16 ? std::uint8_t{kDLBfloat} : std::uint8_t{kDLFloat}, bits, 1};
}

/// A DLTensor in CPU memory that has its extents and strides with it. Move-only; the extents stay where they are.
class DlpackTensor {
 public:
  /// Without storage.
  DlpackTensor(const Shape& shape, ElementType type)
      : extents_{std::make_unique<std::int64_t[]>(2 * shape.rank())},
        view_{.data = nullptr,
              .device = {kDLCPU, 0},
              .ndim = static_cast<int>(shape.rank()),
              .dtype = dlpack_type(type),
              .shape = extents_.get(),
              .strides = extents_.get() + shape.rank(),
              .byte_offset = 0} {
    std::int64_t stride = 1;
    for (std::size_t i = shape.rank(); i-- > 0;) {
      view_.shape[i] = static_cast<std::int64_t>(shape[i]);
      view_.strides[i] = stride;
      stride *= view_.shape[i];
    }
  }

  /// Its extents are this object's, or whom it was moved to.
  DLTensor& view() noexcept { return view_; }
  const DLTensor& view() const noexcept { return view_; }

 private:
  std::unique_ptr<std::int64_t[]> extents_;  // the shape, then the strides
  DLTensor view_;
};

/// A lease for reading lends a `const DlpackTensor`. Its elements are not protected: a DLTensor points at them by
/// `void*` alone. Whoever hands it on where DLPack has flags (DLManagedTensorVersioned, DLPack 1.0) sets
/// DLPACK_FLAG_BITMASK_READ_ONLY there.
template <>
struct TensorTraits<DlpackTensor> {
  static DlpackTensor unbound(const Shape& shape, ElementType type) { return {shape, type}; }
  static void bind(DlpackTensor& tensor, std::byte* data) { tensor.view().data = data; }
  static std::byte* data(const DlpackTensor& tensor) { return static_cast<std::byte*>(tensor.view().data); }
};

static_assert(RuntimeTypedTensor<DlpackTensor>);

}  // namespace zerospan::inline v0
