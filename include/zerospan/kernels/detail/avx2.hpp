/// @file
/// Elements of every format in AVX2 registers, as floats. Empty on other processors.
#pragma once

#include <cstddef>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>

#if defined(__x86_64__)
namespace zerospan::inline v0::detail::avx2 {

/// Eight elements from `data + i` on (in elements), unaligned, as floats.
template <ElementType Type>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256 load8(const std::byte* data,
                                                                         std::size_t i) noexcept {
  const std::byte* const address = data + i * element_bytes(Type);
  if constexpr (Type == ElementType::float32) {
    return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(address)));
  } else {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(address));
    if constexpr (Type == ElementType::float16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
}

/// The bits that `bfloat16::round` gives for each of eight words, in the lower halves of the result.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256i round_bfloat16(__m256i word) noexcept {
  const __m256i upper = _mm256_srli_epi32(word, 16);
  const __m256i tie_to_even = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounding = _mm256_add_epi32(tie_to_even, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(word, rounding), 16);
  const __m256i magnitude = _mm256_and_si256(word, _mm256_set1_epi32(0x7fffffff));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), is_nan);
}

/// Stores sixteen floats as elements from `data + i` on (in elements), unaligned, rounded to nearest even.
template <ElementType Type>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline void store16(std::byte* data, std::size_t i, __m256 low,
                                                                         __m256 high) noexcept {
  auto* const address = reinterpret_cast<__m256i_u*>(data + i * element_bytes(Type));
  const __m256i low_words = _mm256_castps_si256(low);
  const __m256i high_words = _mm256_castps_si256(high);
  if constexpr (Type == ElementType::float32) {
    _mm256_storeu_si256(address, low_words);
    _mm256_storeu_si256(address + 1, high_words);
  } else if constexpr (Type == ElementType::float16) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT;
    _mm256_storeu_si256(address, _mm256_set_m128i(_mm256_cvtps_ph(high, nearest), _mm256_cvtps_ph(low, nearest)));
  } else {
    // Packing works on each half of the registers apart; the permutation puts the four quarters in order.
    const __m256i packed = _mm256_packus_epi32(round_bfloat16(low_words), round_bfloat16(high_words));
    _mm256_storeu_si256(address, _mm256_permute4x64_epi64(packed, 0b11'01'10'00));
  }
}

}  // namespace zerospan::inline v0::detail::avx2
#endif
