/// @file
/// GradientAddition: how a gradient joins its accumulator, and the squared norm of what that then holds.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/detail/gradient_kernels.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0 {

/// What becomes of an accumulator.
enum class Addition : std::uint8_t {
  replace,  ///< target = source, widened where the types differ, else bit for bit.
  add,      ///< target = target + source, in fp32, rounded once if the target has 16 bits.
};

/// A gradient, or a piece of one, on its way into an accumulator: one pass over memory.
///
/// The squares of the result's elements [norm_begin, norm_end) are summed as by `square_norm`, in logical blocks of
/// `block_elements` that are counted from `target`.
struct GradientAddition {
  ElementType type;         ///< The accumulator's: float32, or the source's.
  std::byte* target;        ///< `elements` elements of the accumulator.
  ElementType source_type;  ///< The source's.
  const std::byte* source;  ///< As many elements. It is the target itself, or does not overlap it.
  std::size_t elements;     ///< How many there are.
  Addition addition;        ///< What is done.
  std::size_t norm_begin;   ///< A multiple of `block_elements`; counted from `target`.
  std::size_t norm_end;     ///< At most `elements`. The norm is not taken if it is not beyond `norm_begin`.
  std::int64_t* limbs;      ///< `ExactSum::limb_count` of them, to which the norm's are added slot by slot: of 2^29
                            ///< blocks at most before the carries are propagated. Unused without a norm.
};

namespace detail {

/// Adds 16-bit elements in fp32 and rounds once. At most `block_elements`.
inline void accumulate_narrow(ElementType type, std::byte* target, const std::byte* source, std::size_t n) noexcept {
  std::array<float, block_elements> sums;
  to_float(type, target, sums.data(), n);
  accumulate(sums.data(), type, source, n);
  from_float(sums.data(), type, target, n);
}

/// The elements [first, first + n) of an addition, at most `block_elements`, without the norm.
inline void add_block(const GradientAddition& what, std::size_t first, std::size_t n) noexcept {
  std::byte* const target = what.target + first * element_bytes(what.type);
  const std::byte* const source = what.source + first * element_bytes(what.source_type);
  auto* const sums = reinterpret_cast<float*>(target);
  if (what.addition == Addition::replace && what.type == what.source_type) {
    copy_bytes(calling_thread, target, source, n * element_bytes(what.type));
  } else if (what.addition == Addition::replace) {
    to_float(what.source_type, source, sums, n);
  } else if (what.type == ElementType::float32) {
    accumulate(sums, what.source_type, source, n);
  } else {
    accumulate_narrow(what.type, target, source, n);
  }
}

}  // namespace detail

/// Adds a gradient to its accumulator, and the squared norm of the result to its limbs, block by block: each is
/// squared while it is in the first-level cache.
/// @note On the calling thread it is done when it returns; a device's stream type has its own overload.
void add_gradient(std::same_as<StreamRef> auto, const GradientAddition& what) noexcept {
  detail::ExactSum norm;
  detail::for_each_block(what.elements, [&](std::size_t first, std::size_t n) {
    detail::add_block(what, first, n);
    const std::size_t end = std::min(first + n, what.norm_end);
    if (first >= what.norm_begin && first < end) {
      detail::square_norm(what.type, what.target + first * element_bytes(what.type), end - first, norm);
    }
  });
  if (what.norm_begin >= what.norm_end) return;
  const std::span<const std::int64_t, detail::ExactSum::limb_count> limbs = norm.limbs();
  for (std::size_t k = 0; k < limbs.size(); ++k) what.limbs[k] += limbs[k];
}

}  // namespace zerospan::inline v0
