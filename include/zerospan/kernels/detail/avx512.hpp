/// @file
/// Elements of every format in AVX-512 registers, as floats. Empty on other processors.
#pragma once

#include <cstddef>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>

#if defined(__x86_64__)
namespace zerospan::inline v0::detail::avx512 {

/// Of operations that take one, where all lanes are meant: those without a mask begin with undefined lanes, of which
/// GCC 12 warns in its own header.
inline constexpr __mmask16 all_lanes = 0xffff;

/// Sixteen elements from `data + i` on (in elements), unaligned, as floats.
template <ElementType Type>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512 load16(const std::byte* data,
                                                                                  std::size_t i) noexcept {
  const std::byte* const address = data + i * element_bytes(Type);
  if constexpr (Type == ElementType::float32) {
    return _mm512_loadu_ps(address);
  } else {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(address));
    if constexpr (Type == ElementType::float16) return _mm512_maskz_cvtph_ps(all_lanes, halves);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, _mm512_maskz_cvtepu16_epi32(all_lanes, halves), 16));
  }
}

/// The bits that `bfloat16::round` gives for each of sixteen words, in the lower halves of the result.
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512i round_bfloat16(__m512i word) noexcept {
  const __m512i upper = _mm512_maskz_srli_epi32(all_lanes, word, 16);
  const __m512i tie_to_even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounding = _mm512_add_epi32(tie_to_even, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_maskz_srli_epi32(all_lanes, _mm512_add_epi32(word, rounding), 16);
  const __m512i magnitude = _mm512_and_si512(word, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  return _mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40));
}

/// Stores sixteen floats as elements from `data + i` on (in elements), unaligned, rounded to nearest even.
template <ElementType Type>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline void store16(std::byte* data, std::size_t i,
                                                                                 __m512 values) noexcept {
  std::byte* const address = data + i * element_bytes(Type);
  if constexpr (Type == ElementType::float32) {
    _mm512_storeu_ps(address, values);
  } else {
    __m256i halves;
    if constexpr (Type == ElementType::float16) {
      halves = _mm512_maskz_cvtps_ph(all_lanes, values, _MM_FROUND_TO_NEAREST_INT);
    } else {
      halves = _mm512_maskz_cvtepi32_epi16(all_lanes, round_bfloat16(_mm512_castps_si512(values)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(address), halves);
  }
}

}  // namespace zerospan::inline v0::detail::avx512
#endif
