/// @file
/// The customization point through which a host framework lends its own tensor type to zerospan.
#pragma once

#include <concepts>
#include <cstddef>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>

namespace zerospan::inline v0 {

/// Specialize it for the host's tensor. The whole of the adaptation, where the element type is known at compile time:
/// @code
/// template <> struct zerospan::TensorTraits<my::Tensor> {
///   using element_type = float;
///   static my::Tensor unbound(const zerospan::Shape& shape);   // a tensor of that shape that owns no storage
///   static void bind(my::Tensor& tensor, float* data);         // point it at storage; nullptr unbinds it
///   static float* data(const my::Tensor& tensor);              // the storage it points at
/// };
/// @endcode
/// and where the tensor has a field for it:
/// @code
/// template <> struct zerospan::TensorTraits<my::Tensor> {
///   static my::Tensor unbound(const zerospan::Shape& shape, zerospan::ElementType type);
///   static void bind(my::Tensor& tensor, std::byte* data);
///   static std::byte* data(const my::Tensor& tensor);
/// };
/// @endcode
/// Storage is contiguous and row-major, owned by zerospan, and valid while a lease is held.
///
/// One more line makes leases for reading lend a type whose elements cannot be changed, where `const my::Tensor` still
/// lets them be (it has a `float*`, say):
/// @code
///   static my::ConstTensor constant(const my::Tensor& tensor);  // a view of the same storage, or of none
/// @endcode
template <class T>
struct TensorTraits;

/// A tensor type whose element type is part of it.
///
/// @concept
/// - `TensorTraits<T>::element_type` is an Element;
/// - `TensorTraits<T>::unbound(shape)` makes a tensor that owns no storage;
/// - `TensorTraits<T>::bind(tensor, pointer)` points it at storage, nullptr unbinds it;
/// - `TensorTraits<T>::data(tensor)` is the pointer last bound;
/// - `T` is movable.
template <class T>
concept TypedTensor =
    std::movable<T> && Element<typename TensorTraits<T>::element_type> &&
    requires(T& tensor, const T& read_only, const Shape& shape, typename TensorTraits<T>::element_type* data) {
      { TensorTraits<T>::unbound(shape) } -> std::same_as<T>;
      TensorTraits<T>::bind(tensor, data);
      { TensorTraits<T>::data(read_only) } -> std::same_as<typename TensorTraits<T>::element_type*>;
    };

/// A tensor type whose element type is known at run time.
///
/// @concept As TypedTensor, without `element_type`: `unbound(shape, type)` is told it, and pointers are to bytes.
template <class T>
concept RuntimeTypedTensor = std::movable<T> && !requires {
  typename TensorTraits<T>::element_type;
} && requires(T& tensor, const T& read_only, const Shape& shape, ElementType type, std::byte* data) {
  { TensorTraits<T>::unbound(shape, type) } -> std::same_as<T>;
  TensorTraits<T>::bind(tensor, data);
  { TensorTraits<T>::data(read_only) } -> std::same_as<std::byte*>;
};

/// A tensor type of the host that zerospan can bind to its own storage.
template <class T>
concept HostTensor = TypedTensor<T> || RuntimeTypedTensor<T>;

/// A tensor type whose trait also names what stands for it where it is only read.
///
/// @concept
/// - `TensorTraits<T>::constant(tensor)` is a view of the storage that `tensor` points at, be it none. It is
///   move-constructible, does not refer to the object `tensor`, and making one does not throw.
template <class T>
concept ReadOnlyTensor = HostTensor<T> && requires(const T& tensor) {
  { TensorTraits<T>::constant(tensor) } -> std::move_constructible;
};

/// What stands for a tensor where it is only read.
template <ReadOnlyTensor T>
using constant_tensor = decltype(TensorTraits<T>::constant(std::declval<const T&>()));

namespace detail {

template <TypedTensor T>
inline constexpr ElementType element_type_of = ElementTraits<typename TensorTraits<T>::element_type>::type;

/// Stops the compilation with what is wrong with the adaptation of `T`, if it is no HostTensor.
template <class T>
consteval bool check_adaptation() {
  if constexpr (!requires { sizeof(TensorTraits<T>); }) {
    static_assert(HostTensor<T>, "zerospan: TensorTraits is not specialized for this tensor type");
  } else if constexpr (requires { typename TensorTraits<T>::element_type; }) {
    static_assert(Element<typename TensorTraits<T>::element_type>,
                  "zerospan: the element_type of this TensorTraits is no known format (float, bfloat16, or a 16-bit "
                  "type with ElementTraits)");
    static_assert(
        TypedTensor<T>,
        "zerospan: this TensorTraits lacks unbound(shape), bind(tensor, element_type*) or data(tensor), which "
        "returns element_type*");
  } else {
    static_assert(RuntimeTypedTensor<T>,
                  "zerospan: this TensorTraits lacks unbound(shape, type), bind(tensor, std::byte*) or data(tensor), "
                  "which returns std::byte*; or it lacks an element_type");
  }
  if constexpr (requires { &TensorTraits<T>::constant; }) {
    static_assert(ReadOnlyTensor<T>,
                  "zerospan: constant(tensor) of this TensorTraits takes a const tensor, and returns a movable view");
  }
  return true;
}

/// What a HostTensor's element type and pointers look like to code that works on bytes.
template <HostTensor T>
struct TensorBinding {
  static T unbound(const Shape& shape, ElementType type) {
    if constexpr (TypedTensor<T>) {
      return TensorTraits<T>::unbound(shape);
    } else {
      return TensorTraits<T>::unbound(shape, type);
    }
  }

  static void bind(T& tensor, std::byte* data) {
    if constexpr (TypedTensor<T>) {
      TensorTraits<T>::bind(tensor, reinterpret_cast<typename TensorTraits<T>::element_type*>(data));
    } else {
      TensorTraits<T>::bind(tensor, data);
    }
  }

  static std::byte* data(const T& tensor) {
    if constexpr (TypedTensor<T>) {
      return reinterpret_cast<std::byte*>(TensorTraits<T>::data(tensor));
    } else {
      return TensorTraits<T>::data(tensor);
    }
  }
};

}  // namespace detail

}  // namespace zerospan::inline v0
