/// @file
/// libtorch's at::Tensor as a host tensor. Needs libtorch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <ATen/ATen.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace zerospan::inline v0 {

/// libtorch's name of a storage format.
constexpr at::ScalarType torch_type(ElementType type) noexcept {
  return type == ElementType::bfloat16 ? at::kBFloat16 : type == ElementType::float16 ? at::kHalf : at::kFloat;
}

/// Binds and unbinds in place, below autograd: the tensor object, everything that holds it, its version counter and its
/// place in a graph stay. So a module's own parameters can be bound to a lease's memory, as well as the lease's tensor.
///
/// An unbound tensor keeps its sizes and type, and is on the meta device, with a storage of 0 bytes: a use beside
/// tensors in CPU memory throws, at the latest where a number is looked at, and reads nothing. Views that outlive a
/// lease share that empty storage.
///
/// A lease for reading lends a `const at::Tensor`. Its elements are not protected: in-place operations of a constant
/// tensor compile, and write to the lease's memory.
template <>
struct TensorTraits<at::Tensor> {
  static at::Tensor unbound(const Shape& shape, ElementType type) {
    std::array<std::int64_t, Shape::max_rank> sizes;
    for (std::size_t i = 0; i < shape.rank(); ++i) sizes[i] = static_cast<std::int64_t>(shape[i]);
    at::Tensor tensor = at::empty({0}, torch_type(type));
    tensor.unsafeGetTensorImpl()->set_sizes_contiguous({sizes.data(), shape.rank()});
    bind(tensor, nullptr);
    return tensor;
  }

  /// @param tensor A contiguous one. The memory that it owned so far is freed.
  static void bind(at::Tensor& tensor, std::byte* data) {
    const c10::Device device{data ? at::kCPU : at::kMeta};
    const c10::Storage& storage = tensor.storage();
    storage.set_data_ptr_noswap({data, device});  // without a deleter: the memory is zerospan's
    storage.unsafeGetStorageImpl()->set_resizable(false);
    storage.set_nbytes(data ? static_cast<std::size_t>(tensor.numel()) * tensor.itemsize() : 0);
    c10::TensorImpl* const implementation = tensor.unsafeGetTensorImpl();
    implementation->set_storage_keep_dtype(storage);  // takes the storage's device
    implementation->_change_backend_component_keys(device);
  }

  static std::byte* data(const at::Tensor& tensor) {
    return static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(tensor.storage().data())));
  }
};

static_assert(RuntimeTypedTensor<at::Tensor>);

}  // namespace zerospan::inline v0
