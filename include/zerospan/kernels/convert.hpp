/// @file
/// Elements to and from floats, in bulk.
#pragma once

#include <cstddef>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/avx2.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// The library's own type of a format.
template <ElementType Type>
using Stored = std::tuple_element_t<static_cast<std::size_t>(Type), std::tuple<float, bfloat16, float16>>;

/// Element `i` of `data`, as a float.
template <ElementType Type>
[[gnu::always_inline]] inline float load_element(const std::byte* data, std::size_t i) noexcept {
  Stored<Type> element;
  std::memcpy(&element, data + i * sizeof element, sizeof element);
  return static_cast<float>(element);
}

/// Stores `value`, rounded to nearest even, as element `i` of `data`.
template <ElementType Type>
[[gnu::always_inline]] inline void store_element(std::byte* data, std::size_t i, float value) noexcept {
  const Stored<Type> element{value};
  std::memcpy(data + i * sizeof element, &element, sizeof element);
}

/// An element type as a type, so that a kernel can be chosen by it.
template <ElementType Type>
using ElementConstant = std::integral_constant<ElementType, Type>;

/// Calls `f` with the `ElementConstant` of `type`.
template <class F>
decltype(auto) dispatch_element_type(ElementType type, F&& f) {
  switch (type) {
    case ElementType::float32:
      return std::forward<F>(f)(ElementConstant<ElementType::float32>{});
    case ElementType::bfloat16:
      return std::forward<F>(f)(ElementConstant<ElementType::bfloat16>{});
    case ElementType::float16:
      break;
  }
  return std::forward<F>(f)(ElementConstant<ElementType::float16>{});
}

#if defined(__x86_64__)
namespace avx2 {

/// Converts the elements below the last multiple of sixteen. @return how many.
template <ElementType From, ElementType To>
[[gnu::target("avx2,fma,f16c")]] inline std::size_t convert(const std::byte* in, std::byte* out,
                                                            std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) store16<To>(out, i, load8<From>(in, i), load8<From>(in, i + 8));
  return i;
}

}  // namespace avx2
#endif

/// Copies bits where the types are equal.
template <ElementType From, ElementType To>
void convert(const std::byte* in, std::byte* out, std::size_t n, [[maybe_unused]] InstructionSet set) noexcept {
  std::size_t i = 0;
  if constexpr (From == To) {
    if (n > 0) std::memcpy(out, in, n * element_bytes(From));
    return;
  }
#if defined(__x86_64__)
  if (has_avx2(set)) i = avx2::convert<From, To>(in, out, n);
#endif
  for (; i < n; ++i) store_element<To>(out, i, load_element<From>(in, i));
}

}  // namespace detail

/// Widens `n` elements of `in`, exactly. The ranges do not overlap; neither needs any alignment beyond its type's.
/// @param set One that this processor has.
inline void to_float(ElementType type, const std::byte* in, float* out, std::size_t n,
                     InstructionSet set = best_instruction_set()) noexcept {
  detail::dispatch_element_type(type, [&](auto from) {
    detail::convert<from.value, ElementType::float32>(in, reinterpret_cast<std::byte*>(out), n, set);
  });
}

/// Rounds `n` floats to `type`, to nearest, ties to even; NaN stays NaN (of a 16-bit type quiet, its sign and upper
/// bits kept). The ranges do not overlap.
/// @param set One that this processor has.
inline void from_float(const float* in, ElementType type, std::byte* out, std::size_t n,
                       InstructionSet set = best_instruction_set()) noexcept {
  detail::dispatch_element_type(type, [&](auto to) {
    detail::convert<ElementType::float32, to.value>(reinterpret_cast<const std::byte*>(in), out, n, set);
  });
}

}  // namespace zerospan::inline v0
