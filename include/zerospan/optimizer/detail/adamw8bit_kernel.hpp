/// @file
/// AdamW on moments of 8 bits, block by block: scalar, and on registers of AVX2 and AVX-512.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>
#include <zerospan/kernels/detail/avx2.hpp>
#include <zerospan/kernels/detail/avx512.hpp>
#include <zerospan/optimizer/detail/adamw_kernel.hpp>
#include <zerospan/optimizer/detail/moment_codes.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0::detail {

/// One run: its arrays, each from the run's first element on, which begins a block.
struct AdamW8bitRun {
  float* master;
  std::uint8_t* first_codes;
  std::uint8_t* second_codes;
  float* first_scales;
  float* second_scales;
  const std::byte* gradient;
  std::byte* parameter;
  float gradient_scale;
  std::uint32_t update;  ///< Its number, for `Dither`.

  /// The same from a later block on.
  template <ElementType Gradient, ElementType Parameter>
  [[gnu::always_inline]] AdamW8bitRun from(std::size_t element) const noexcept {
    const std::size_t block = element / scaled_elements;
    return {master + element,
            first_codes + element,
            second_codes + element,
            first_scales + block,
            second_scales + block,
            gradient + element * element_bytes(Gradient),
            parameter + element * element_bytes(Parameter),
            gradient_scale,
            update};
  }
};

/// A block between decoding and encoding.
struct MomentBlock {
  alignas(64) std::array<float, scaled_elements> first;
  alignas(64) std::array<float, scaled_elements> second;
};

/// The largest `magnitude_bits` of both.
struct LargestMoments {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
};

/// The scales that a block gets, and their inverses; 0 where all codes are 0.
struct BlockScales {
  [[gnu::always_inline]] BlockScales(const AdamW8bitRun& run, const LargestMoments& largest) noexcept {
    *run.first_scales = moment_scale(largest.first);
    *run.second_scales = moment_scale(largest.second);
    if (has_codes(*run.first_scales)) first_inverse = quotient(1.0F, *run.first_scales);
    if (has_codes(*run.second_scales)) second_inverse = quotient(1.0F, *run.second_scales);
  }

  /// Whether both have codes other than 0.
  bool are_both_needed() const noexcept { return first_inverse > 0 && second_inverse > 0; }

  float first_inverse = 0;
  float second_inverse = 0;
};

/// Decodes and updates the elements [begin, end) of a block. An fp32 parameter is not written, here and below: it is
/// the master weights.
template <ElementType Gradient, ElementType Parameter>
[[gnu::always_inline]] inline void update_moments(const AdamWRule& rule, const AdamW8bitRun& run, std::size_t begin,
                                                  std::size_t end, MomentBlock& block,
                                                  LargestMoments& largest) noexcept {
  for (std::size_t i = begin; i < end; ++i) {
    const float g = product(load_element<Gradient>(run.gradient, i), run.gradient_scale);
    float m = FirstMomentCode::decode(run.first_codes[i], *run.first_scales);
    float v = SecondMomentCode::decode(run.second_codes[i], *run.second_scales);
    const float p = rule(run.master[i], g, m, v);
    run.master[i] = p;
    if constexpr (Parameter != ElementType::float32) store_element<Parameter>(run.parameter, i, p);
    block.first[i] = m;
    block.second[i] = v;
    largest.first = std::max(largest.first, magnitude_bits(m));
    largest.second = std::max(largest.second, magnitude_bits(v));
  }
}

/// Encodes the moments [begin, end) of a block. Those of a block that is not finite have the code 0: its scale says so.
[[gnu::always_inline]] inline void encode_moments(const AdamW8bitRun& run, const BlockScales& scales,
                                                  const MomentBlock& block, std::size_t begin,
                                                  std::size_t end) noexcept {
  for (std::size_t i = begin; i < end; ++i) {
    const std::uint32_t dither = Dither::at(run.update, static_cast<std::uint32_t>(i));
    int first = 0;
    int second = 0;
    if (scales.first_inverse > 0) first = FirstMomentCode::encode(block.first[i], scales.first_inverse, dither);
    if (scales.second_inverse > 0) {
      second = SecondMomentCode::encode(block.second[i], scales.second_inverse, dither);
      second = std::max(second, block.second[i] > 0 ? 1 : 0);
    }
    run.first_codes[i] = static_cast<std::uint8_t>(first);
    run.second_codes[i] = static_cast<std::uint8_t>(second);
  }
}

/// Updates `n` elements.
template <ElementType Gradient, ElementType Parameter>
void adamw8bit_scalar(const AdamWRule& rule, const AdamW8bitRun& run, std::size_t n) noexcept {
  for (std::size_t done = 0; done < n; done += scaled_elements) {
    const AdamW8bitRun here = run.from<Gradient, Parameter>(done);
    const std::size_t count = std::min(scaled_elements, n - done);
    MomentBlock block;
    LargestMoments largest;
    update_moments<Gradient, Parameter>(rule, here, 0, count, block, largest);
    encode_moments(here, BlockScales{here, largest}, block, 0, count);
  }
}

#if defined(__x86_64__)
/// Elements that a vector body updates at once: their codes fill a register.
inline constexpr std::size_t codes_at_once = 32;

/// Asks for the cache lines of `codes_at_once` elements from `i` on, as AdamW does, whose bodies have as many streams.
template <ElementType Gradient, ElementType Parameter>
[[gnu::always_inline]] inline void prefetch(const AdamW8bitRun& run, std::size_t i) noexcept {
  constexpr std::size_t line = 64;
  for (std::size_t byte = 0; byte < codes_at_once * sizeof(float); byte += line) {
    __builtin_prefetch(reinterpret_cast<const std::byte*>(run.master + i) + byte);
  }
  for (std::size_t byte = 0; byte < codes_at_once * element_bytes(Gradient); byte += line) {
    __builtin_prefetch(run.gradient + i * element_bytes(Gradient) + byte);
  }
  if constexpr (Parameter != ElementType::float32) __builtin_prefetch(run.parameter + i * element_bytes(Parameter));
  __builtin_prefetch(run.first_codes + i);
  __builtin_prefetch(run.second_codes + i);
}

namespace avx2 {

/// `ShareCode::decode` of eight codes: the shares' bits.
template <class Code>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256i share_bits8(__m256i codes) noexcept {
  const __m256i bits = _mm256_add_epi32(_mm256_slli_epi32(codes, Code::dropped_bits),
                                        _mm256_set1_epi32(Code::below_first << Code::dropped_bits));
  return _mm256_sign_epi32(bits, codes);  // 0 of code 0
}

/// `ShareCode::encode` of eight magnitudes, before what is below 0 becomes 0.
template <class Code>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256i encode8(__m256 magnitudes, __m256 inverse,
                                                                            __m256i dither) noexcept {
  const __m256i bits = _mm256_castps_si256(_mm256_mul_ps(magnitudes, inverse));
  const __m256i codes = _mm256_srli_epi32(_mm256_add_epi32(bits, dither), Code::dropped_bits);
  return _mm256_sub_epi32(codes, _mm256_set1_epi32(Code::below_first));
}

/// The phases of eight elements, the first of them a block's.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256i first_phases8(std::uint32_t update) noexcept {
  const __m256i lanes = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                           _mm256_set1_epi32(static_cast<int>(Dither::of_element)));
  return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(Dither::phase(update, 0))), lanes);
}

[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline std::uint32_t largest_of(__m256i words) noexcept {
  alignas(32) std::array<std::uint32_t, 8> lanes;
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.data()), words);
  return *std::max_element(lanes.begin(), lanes.end());
}

/// Words that are packed to bytes work on each half of the registers apart; this puts their eight quarters in order.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline void store_packed(std::uint8_t* to,
                                                                              __m256i bytes) noexcept {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), _mm256_permutevar8x32_epi32(bytes, order));
}

/// The scales that a block had, in all lanes, and the largest magnitudes so far, in each lane.
struct MomentVectors {
  __m256 first_scale, second_scale;
  __m256i largest_first, largest_second;
};

/// Decodes and updates the eight elements from `i` on. @return the new master weights, stored already.
template <ElementType Gradient>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256 update_moments8(const AdamWVectors& c,
                                                                                   const AdamW8bitRun& run,
                                                                                   std::size_t i, MomentBlock& block,
                                                                                   MomentVectors& vectors) noexcept {
  const __m256i magnitude = _mm256_set1_epi32(std::numeric_limits<int>::max());
  const __m256i sign = _mm256_set1_epi32(std::numeric_limits<int>::min());
  const __m256i first_codes =
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(run.first_codes + i)));
  const __m256i second_codes =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(run.second_codes + i)));
  const __m256i first_shares =
      _mm256_or_si256(share_bits8<FirstMomentCode>(_mm256_and_si256(first_codes, _mm256_set1_epi32(0x7f))),
                      _mm256_and_si256(first_codes, sign));
  __m256 m = _mm256_mul_ps(_mm256_castsi256_ps(first_shares), vectors.first_scale);
  __m256 v = _mm256_mul_ps(_mm256_castsi256_ps(share_bits8<SecondMomentCode>(second_codes)), vectors.second_scale);
  const __m256 g = _mm256_mul_ps(load8<Gradient>(run.gradient, i), c.gradient_scale);
  const __m256 p = adamw8(c, _mm256_loadu_ps(run.master + i), g, m, v);
  _mm256_storeu_ps(run.master + i, p);
  _mm256_store_ps(&block.first[i], m);
  _mm256_store_ps(&block.second[i], v);
  vectors.largest_first =
      _mm256_max_epu32(vectors.largest_first, _mm256_and_si256(_mm256_castps_si256(m), magnitude));
  vectors.largest_second =
      _mm256_max_epu32(vectors.largest_second, _mm256_and_si256(_mm256_castps_si256(v), magnitude));
  return p;
}

/// Encodes the elements of a block, all of which are finite, below the last multiple of `codes_at_once`. What is below
/// 0 becomes 0 when it is packed. @return how many.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline std::size_t encode_moments(const AdamW8bitRun& run,
                                                                                       const BlockScales& scales,
                                                                                       const MomentBlock& block,
                                                                                       std::size_t n) noexcept {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(std::numeric_limits<int>::max()));
  const __m256i kept = _mm256_set1_epi32(Dither::kept);
  const __m256i step = _mm256_set1_epi32(static_cast<int>(8 * Dither::of_element));
  const __m256 first_inverse = _mm256_set1_ps(scales.first_inverse);
  const __m256 second_inverse = _mm256_set1_ps(scales.second_inverse);
  __m256i phases = first_phases8(run.update);
  std::size_t i = 0;
  for (; i + codes_at_once <= n; i += codes_at_once) {
    __m256i m[4];
    __m256i v[4];
    __m256i first[4];
    __m256i second[4];
    for (std::size_t k = 0; k < 4; ++k) {
      const __m256i dither = _mm256_and_si256(phases, kept);
      phases = _mm256_add_epi32(phases, step);
      const __m256 moments = _mm256_load_ps(&block.first[i + 8 * k]);
      const __m256 squares = _mm256_load_ps(&block.second[i + 8 * k]);
      m[k] = _mm256_castps_si256(moments);
      v[k] = _mm256_castps_si256(squares);
      first[k] = encode8<FirstMomentCode>(_mm256_and_ps(moments, magnitude), first_inverse, dither);
      second[k] = encode8<SecondMomentCode>(squares, second_inverse, dither);
    }
    const __m256i first_codes =
        _mm256_packus_epi16(_mm256_packs_epi32(first[0], first[1]), _mm256_packs_epi32(first[2], first[3]));
    const __m256i second_codes =
        _mm256_packus_epi16(_mm256_packs_epi32(second[0], second[1]), _mm256_packs_epi32(second[2], second[3]));
    // What does not fit is packed as the smallest or the largest that does: signs stay, and so does what is above 0.
    const __m256i signs = _mm256_packs_epi16(_mm256_packs_epi32(m[0], m[1]), _mm256_packs_epi32(m[2], m[3]));
    const __m256i positive = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i sign = _mm256_and_si256(signs, _mm256_set1_epi8(std::numeric_limits<signed char>::min()));
    const __m256i least = _mm256_min_epu8(positive, _mm256_set1_epi8(1));
    store_packed(run.first_codes + i, _mm256_or_si256(first_codes, sign));
    store_packed(run.second_codes + i, _mm256_max_epu8(second_codes, least));
  }
  return i;
}

/// Updates the next block; its tail is the scalar body itself. @param left Elements of the run, from the block on.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline void update_block(const AdamWRule& rule,
                                                                              const AdamWVectors& c,
                                                                              const AdamW8bitRun& run,
                                                                              std::size_t left) noexcept {
  const std::size_t n = std::min(scaled_elements, left);
  MomentBlock block;
  MomentVectors vectors{_mm256_set1_ps(*run.first_scales), _mm256_set1_ps(*run.second_scales), _mm256_setzero_si256(),
                        _mm256_setzero_si256()};
  std::size_t i = 0;
  for (; i + codes_at_once <= n; i += codes_at_once) {
    prefetch<Gradient, Parameter>(run, std::min(i + scaled_elements, left - codes_at_once));
    for (std::size_t k = i; k < i + codes_at_once; k += 16) {
      const __m256 low = update_moments8<Gradient>(c, run, k, block, vectors);
      const __m256 high = update_moments8<Gradient>(c, run, k + 8, block, vectors);
      if constexpr (Parameter != ElementType::float32) store16<Parameter>(run.parameter, k, low, high);
    }
  }
  LargestMoments largest{largest_of(vectors.largest_first), largest_of(vectors.largest_second)};
  update_moments<Gradient, Parameter>(rule, run, i, n, block, largest);
  const BlockScales scales{run, largest};
  const std::size_t done = scales.are_both_needed() ? encode_moments(run, scales, block, n) : 0;
  detail::encode_moments(run, scales, block, done, n);
}

/// Updates `n` elements.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx2,fma,f16c")]] inline void adamw8bit(const AdamWRule& rule, const AdamW8bitRun& run,
                                                       std::size_t n) noexcept {
  const AdamWVectors vectors{rule, run.gradient_scale};
  for (std::size_t done = 0; done < n; done += scaled_elements) {
    update_block<Gradient, Parameter>(rule, vectors, run.from<Gradient, Parameter>(done), n - done);
  }
}

}  // namespace avx2

namespace avx512 {

/// `ShareCode::decode` of sixteen codes: the shares' bits.
template <class Code>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512i share_bits16(__m512i codes) noexcept {
  const __mmask16 is_positive = _mm512_cmpgt_epi32_mask(codes, _mm512_setzero_si512());
  return _mm512_maskz_slli_epi32(is_positive, _mm512_add_epi32(codes, _mm512_set1_epi32(Code::below_first)),
                                 Code::dropped_bits);
}

/// `ShareCode::encode` of sixteen magnitudes.
template <class Code>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512i encode16(__m512 magnitudes, __m512 inverse,
                                                                                     __m512i dither) noexcept {
  const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(magnitudes, inverse));
  const __m512i codes = _mm512_maskz_srli_epi32(all_lanes, _mm512_add_epi32(bits, dither), Code::dropped_bits);
  return _mm512_maskz_max_epi32(all_lanes, _mm512_sub_epi32(codes, _mm512_set1_epi32(Code::below_first)),
                                _mm512_setzero_si512());
}

/// `Dither::at` of sixteen elements from `place` on.
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline __m512i dither16(std::uint32_t update,
                                                                                     std::size_t place) noexcept {
  const __m512i lanes = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                           _mm512_set1_epi32(static_cast<int>(Dither::of_element)));
  const auto first = static_cast<int>(Dither::phase(update, static_cast<std::uint32_t>(place)));
  return _mm512_and_si512(_mm512_add_epi32(_mm512_set1_epi32(first), lanes), _mm512_set1_epi32(Dither::kept));
}

[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline std::uint32_t largest_of(__m512i words) noexcept {
  alignas(64) std::array<std::uint32_t, 16> lanes;
  _mm512_store_si512(lanes.data(), words);
  return *std::max_element(lanes.begin(), lanes.end());
}

/// Updates the next block; its tail is the scalar body itself. @param left Elements of the run, from the block on.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx512f,avx2,fma,f16c"), gnu::always_inline]] inline void update_block(const AdamWRule& rule,
                                                                                      const AdamW8bitRun& run,
                                                                                      std::size_t left) noexcept {
  const std::size_t n = std::min(scaled_elements, left);
  MomentBlock block;
  const __m512i zero = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(std::numeric_limits<int>::max());
  const __m512i sign = _mm512_set1_epi32(std::numeric_limits<int>::min());
  const __m512 first_scale = _mm512_set1_ps(*run.first_scales);
  const __m512 second_scale = _mm512_set1_ps(*run.second_scales);
  __m512i largest_first = zero;
  __m512i largest_second = zero;
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    if (i % codes_at_once == 0 && left >= codes_at_once) {
      prefetch<Gradient, Parameter>(run, std::min(i + scaled_elements, left - codes_at_once));
    }
    const __m128i first_bytes = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(run.first_codes + i));
    const __m128i second_bytes = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(run.second_codes + i));
    const __m512i first_codes = _mm512_maskz_cvtepi8_epi32(all_lanes, first_bytes);
    const __m512i second_codes = _mm512_maskz_cvtepu8_epi32(all_lanes, second_bytes);
    const __m512i first_magnitudes =
        share_bits16<FirstMomentCode>(_mm512_and_si512(first_codes, _mm512_set1_epi32(0x7f)));
    const __m512i first_shares = _mm512_or_si512(first_magnitudes, _mm512_and_si512(first_codes, sign));
    const __m512i second_shares = share_bits16<SecondMomentCode>(second_codes);
    __m512 m = _mm512_mul_ps(_mm512_castsi512_ps(first_shares), first_scale);
    __m512 v = _mm512_mul_ps(_mm512_castsi512_ps(second_shares), second_scale);
    const __m512 g = _mm512_mul_ps(load16<Gradient>(run.gradient, i), _mm512_set1_ps(run.gradient_scale));
    const __m512 p = adamw16(rule, _mm512_loadu_ps(run.master + i), g, m, v);
    _mm512_storeu_ps(run.master + i, p);
    if constexpr (Parameter != ElementType::float32) store16<Parameter>(run.parameter, i, p);
    _mm512_store_ps(&block.first[i], m);
    _mm512_store_ps(&block.second[i], v);
    const __m512i m_bits = _mm512_and_si512(_mm512_castps_si512(m), magnitude);
    const __m512i v_bits = _mm512_and_si512(_mm512_castps_si512(v), magnitude);
    largest_first = _mm512_maskz_max_epu32(all_lanes, largest_first, m_bits);
    largest_second = _mm512_maskz_max_epu32(all_lanes, largest_second, v_bits);
  }
  LargestMoments largest{largest_of(largest_first), largest_of(largest_second)};
  update_moments<Gradient, Parameter>(rule, run, i, n, block, largest);

  const BlockScales scales{run, largest};
  i = 0;
  if (scales.are_both_needed()) {
    const __m512 first_inverse = _mm512_set1_ps(scales.first_inverse);
    const __m512 second_inverse = _mm512_set1_ps(scales.second_inverse);
    for (; i + 16 <= n; i += 16) {
      const __m512i m = _mm512_load_si512(&block.first[i]);
      const __m512 v = _mm512_load_ps(&block.second[i]);
      const __m512i dither = dither16(run.update, i);
      const __m512 magnitudes = _mm512_castsi512_ps(_mm512_and_si512(m, magnitude));
      const __m512i first = encode16<FirstMomentCode>(magnitudes, first_inverse, dither);
      const __m512i signs = _mm512_and_si512(_mm512_maskz_srli_epi32(all_lanes, m, 24),
                                             _mm512_set1_epi32(FirstMomentCode::sign));
      const __m512i first_codes = _mm512_or_si512(first, signs);
      const __m512i second = encode16<SecondMomentCode>(v, second_inverse, dither);
      const __mmask16 is_positive = _mm512_cmpgt_epi32_mask(_mm512_castps_si512(v), zero);
      const __m512i second_codes = _mm512_mask_max_epi32(second, is_positive, second, _mm512_set1_epi32(1));
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(run.first_codes + i),
                       _mm512_maskz_cvtepi32_epi8(all_lanes, first_codes));
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(run.second_codes + i),
                       _mm512_maskz_cvtepi32_epi8(all_lanes, second_codes));
    }
  }
  encode_moments(run, scales, block, i, n);
}

/// Updates `n` elements.
template <ElementType Gradient, ElementType Parameter>
[[gnu::target("avx512f,avx2,fma,f16c")]] inline void adamw8bit(const AdamWRule& rule, const AdamW8bitRun& run,
                                                               std::size_t n) noexcept {
  for (std::size_t done = 0; done < n; done += scaled_elements) {
    update_block<Gradient, Parameter>(rule, run.from<Gradient, Parameter>(done), n - done);
  }
}

}  // namespace avx512
#endif

/// Updates `n` elements, by the body for `set`.
template <ElementType Gradient, ElementType Parameter>
void adamw8bit(const AdamWRule& rule, const AdamW8bitRun& run, std::size_t n,
               [[maybe_unused]] InstructionSet set) noexcept {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512) return avx512::adamw8bit<Gradient, Parameter>(rule, run, n);
  if (set == InstructionSet::avx2) return avx2::adamw8bit<Gradient, Parameter>(rule, run, n);
#endif
  adamw8bit_scalar<Gradient, Parameter>(rule, run, n);
}

}  // namespace zerospan::inline v0::detail
