/// @file
/// The customization point through which a host framework lends its own tensor type to zerospan.
#pragma once

#include <concepts>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>

namespace zerospan::inline v0 {

/// Specialize it for the host's tensor. The whole of the adaptation:
/// @code
/// template <> struct zerospan::TensorTraits<my::Tensor> {
///   using element_type = float;
///   static my::Tensor unbound(const zerospan::Shape& shape);   // a tensor of that shape that owns no storage
///   static void bind(my::Tensor& tensor, float* data);         // point it at storage; nullptr unbinds it
///   static float* data(const my::Tensor& tensor);              // the storage it points at
/// };
/// @endcode
/// Storage is contiguous and row-major, owned by zerospan, and valid while a lease is held.
template <class T>
struct TensorTraits;

/// A tensor type of the host that zerospan can bind to its own storage.
///
/// @concept
/// - `TensorTraits<T>::element_type` is an Element;
/// - `TensorTraits<T>::unbound(shape)` makes a tensor that owns no storage;
/// - `TensorTraits<T>::bind(tensor, pointer)` points it at storage, nullptr unbinds it;
/// - `TensorTraits<T>::data(tensor)` is the pointer last bound;
/// - `T` is movable.
template <class T>
concept HostTensor =
    std::movable<T> && Element<typename TensorTraits<T>::element_type> &&
    requires(T& tensor, const T& read_only, const Shape& shape, typename TensorTraits<T>::element_type* data) {
      { TensorTraits<T>::unbound(shape) } -> std::same_as<T>;
      TensorTraits<T>::bind(tensor, data);
      { TensorTraits<T>::data(read_only) } -> std::same_as<typename TensorTraits<T>::element_type*>;
    };

}  // namespace zerospan::inline v0
