/// @file
/// What a stream does to a gradient: it is added to its accumulator, and its squared norm is taken in the same pass.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/exact_sum.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/pipeline/gradient_kernels.hpp>

namespace zerospan::inline v0 {

/// What happens to what was in an accumulator.
enum class Addition : std::uint8_t { replace, add };

/// target (+)= source, and the squared norm of a part of the result.
struct GradientAddition {
  ElementType type;  ///< Of the accumulator: float32, or the source's type.
  std::byte* target;
  ElementType source_type;
  const std::byte* source;
  std::size_t elements;
  Addition addition;         ///< Sums are taken in fp32, and rounded once where the accumulator is narrower.
  std::size_t norm_begin;    ///< The elements of the result whose squares count; `norm_begin` begins a logical block.
  std::size_t norm_end;      ///< Equal to `norm_begin`: none.
  std::int64_t* digits;      ///< Of an ExactSum, to which the sum of squares is added, digit by digit.
};

namespace detail {

/// Adds 16-bit elements in fp32 and rounds once.
inline void add_narrow(ElementType type, std::byte* target, const std::byte* source, std::size_t elements) noexcept {
  std::array<float, block_elements> sums;
  for (std::size_t done = 0; done < elements; done += block_elements) {
    const std::size_t count = std::min(block_elements, elements - done);
    const std::size_t offset = done * element_bytes(type);
    to_float(type, target + offset, sums.data(), count);
    accumulate(sums.data(), type, source + offset, count);
    from_float(sums.data(), type, target + offset, count);
  }
}

}  // namespace detail

/// @note On the calling thread it is done when it returns; on a device's stream it is enqueued.
inline void add_gradient(StreamRef, const GradientAddition& a) noexcept {
  auto* const sums = reinterpret_cast<float*>(a.target);
  if (a.addition == Addition::replace && a.type == a.source_type) {
    if (a.target != a.source) std::memcpy(a.target, a.source, a.elements * element_bytes(a.type));
  } else if (a.addition == Addition::replace) {
    to_float(a.source_type, a.source, sums, a.elements);
  } else if (a.type == ElementType::float32) {
    accumulate(sums, a.source_type, a.source, a.elements);
  } else {
    detail::add_narrow(a.type, a.target, a.source, a.elements);
  }
  if (a.norm_begin >= a.norm_end) return;
  ExactSum norm;
  square_norm(a.type, a.target + a.norm_begin * element_bytes(a.type), a.norm_end - a.norm_begin, norm);
  const auto digits = norm.digits();
  for (std::size_t k = 0; k < ExactSum::digit_count; ++k) a.digits[k] += digits[k];
}

}  // namespace zerospan::inline v0
