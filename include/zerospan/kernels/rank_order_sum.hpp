/// @file
/// The one summation order of every deterministic reduction: rank 0, 1, ..., in fp32, rounded once.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/avx2.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Elements summed at once: their accumulator stays in the first-level cache. The count is a constant of the type, so
/// that loops over whole chunks vectorize at every optimization level.
using SumChunk = std::integral_constant<std::size_t, 1024>;

/// Sums `elements` (a SumChunk, or a smaller number) that begin at element `first` of each input. The sum is complete
/// before the first element of the output is written, so that the output may be one of the inputs.
template <ElementType Input, ElementType Output, class Count>
inline void sum_chunk(std::span<const std::byte* const> inputs, std::byte* output, std::size_t first,
                      Count elements) noexcept {
  alignas(64) std::array<float, SumChunk::value> chunk;
  float* const sum = chunk.data();
  const std::byte* const rank_0 = inputs[0] + first * element_bytes(Input);
  for (std::size_t i = 0; i < elements; ++i) sum[i] = load_element<Input>(rank_0, i);
  for (const std::byte* const input : inputs.subspan(1)) {
    const std::byte* const addends = input + first * element_bytes(Input);
    for (std::size_t i = 0; i < elements; ++i) sum[i] += load_element<Input>(addends, i);
  }
  std::byte* const rounded = output + first * element_bytes(Output);
  for (std::size_t i = 0; i < elements; ++i) store_element<Output>(rounded, i, sum[i]);
}

#if defined(__x86_64__)
namespace avx2 {

/// Sums the elements below the last multiple of `step`, in registers. A step is complete before it is written, as a
/// chunk is, and all inputs are read at one pace. @return how many.
template <ElementType Input, ElementType Output>
[[gnu::target("avx2,fma,f16c")]] inline std::size_t sum_in_rank_order(std::span<const std::byte* const> inputs,
                                                                      std::byte* output,
                                                                      std::size_t elements) noexcept {
  constexpr std::size_t step = 32;
  std::size_t i = 0;
  for (; i + step <= elements; i += step) {
    const std::byte* const rank_0 = inputs[0];
    __m256 sum0 = load8<Input>(rank_0, i);
    __m256 sum1 = load8<Input>(rank_0, i + 8);
    __m256 sum2 = load8<Input>(rank_0, i + 16);
    __m256 sum3 = load8<Input>(rank_0, i + 24);
    for (const std::byte* const input : inputs.subspan(1)) {
      sum0 = _mm256_add_ps(sum0, load8<Input>(input, i));
      sum1 = _mm256_add_ps(sum1, load8<Input>(input, i + 8));
      sum2 = _mm256_add_ps(sum2, load8<Input>(input, i + 16));
      sum3 = _mm256_add_ps(sum3, load8<Input>(input, i + 24));
    }
    store16<Output>(output, i, sum0, sum1);
    store16<Output>(output, i + 16, sum2, sum3);
  }
  return i;
}

}  // namespace avx2
#endif

template <ElementType Input, ElementType Output>
inline void sum_in_rank_order(std::span<const std::byte* const> inputs, std::byte* output, std::size_t elements,
                              [[maybe_unused]] InstructionSet set) noexcept {
  std::size_t first = 0;
#if defined(__x86_64__)
  if (has_avx2(set)) first = avx2::sum_in_rank_order<Input, Output>(inputs, output, elements);
#endif
  for (; elements - first >= SumChunk::value; first += SumChunk::value) {
    sum_chunk<Input, Output>(inputs, output, first, SumChunk{});
  }
  if (first < elements) sum_chunk<Input, Output>(inputs, output, first, elements - first);
}

}  // namespace detail

/// `output[i] = round(((inputs[0][i] + inputs[1][i]) + inputs[2][i]) + ...)` for i in [0, elements), each addition in
/// fp32, rounded once at the end. The sum of a single input of the output's type is a copy, bit for bit.
///
/// Every body gives the bits of that formula (of a NaN, that it is one).
///
/// @param inputs One pointer a rank, in rank order; at least one. They need not be aligned.
/// @param output_type float32, or the inputs' type.
/// @param output May be one of the inputs when the types are equal; otherwise it overlaps none.
/// @param set One that this processor has.
inline void rank_order_sum(std::span<const std::byte* const> inputs, ElementType input_type, std::byte* output,
                           ElementType output_type, std::size_t elements,
                           InstructionSet set = best_instruction_set()) noexcept {
  if (elements == 0) return;
  if (inputs.size() == 1 && input_type == output_type) {
    if (output != inputs[0]) std::memcpy(output, inputs[0], elements * element_bytes(input_type));
    return;
  }
  detail::dispatch_element_type(input_type, [&](auto type) {
    if (output_type == ElementType::float32) {
      detail::sum_in_rank_order<type.value, ElementType::float32>(inputs, output, elements, set);
    } else {
      detail::sum_in_rank_order<type.value, type.value>(inputs, output, elements, set);
    }
  });
}

/// The same, at once, on the stream that is the calling thread. A device's stream type has its own overload.
void rank_order_sum(std::same_as<StreamRef> auto, std::span<const std::byte* const> inputs, ElementType input_type,
                    std::byte* output, ElementType output_type, std::size_t elements) noexcept {
  rank_order_sum(inputs, input_type, output, output_type, elements);
}

}  // namespace zerospan::inline v0
