/// @file
/// The library's own initializers by vector instructions: the same values, many times as fast.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <zerospan/core/config.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/philox.hpp>
#include <zerospan/kernels/cpu.hpp>

namespace zerospan::inline v0 {

namespace detail {

#if defined(__x86_64__)
namespace avx2 {

/// The first two words of Philox of four counters, each in the lower half of 64 bits.
struct RandomWords {
  __m256i first;
  __m256i second;
};

[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256i all64(std::uint64_t value) noexcept {
  return _mm256_set1_epi64x(static_cast<long long>(value));
}

[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256d reals(__m256i bits) noexcept {
  return _mm256_castsi256_pd(bits);
}

/// Below 2^52, in each 64 bits, as doubles.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256d to_double(__m256i integers) noexcept {
  const __m256i two_to_52 = all64(0x4330'0000'0000'0000U);
  return _mm256_sub_pd(reals(_mm256_or_si256(integers, two_to_52)), reals(two_to_52));
}

/// `philox(key, high, low + i)` for i from 0 to 3. Upper halves of registers are not looked at on the way.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline RandomWords philox4(std::uint64_t key, std::uint64_t high,
                                                                                std::uint64_t low) noexcept {
  const __m256i counter = _mm256_add_epi64(all64(low), _mm256_setr_epi64x(0, 1, 2, 3));
  __m256i word0 = counter;
  __m256i word1 = _mm256_srli_epi64(counter, 32);
  __m256i word2 = all64(high);
  __m256i word3 = all64(high >> 32);
  const __m256i factor0 = all64(0xD2511F53U);
  const __m256i factor1 = all64(0xCD9E8D57U);
  auto key0 = static_cast<std::uint32_t>(key);
  auto key1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m256i product0 = _mm256_mul_epu32(factor0, word0);
    const __m256i product1 = _mm256_mul_epu32(factor1, word2);
    word0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), word1), all64(key0));
    word1 = product1;
    word2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), word3), all64(key1));
    word3 = product0;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  const __m256i lower_half = all64(0xFFFF'FFFFU);
  return {_mm256_and_si256(word0, lower_half), _mm256_and_si256(word1, lower_half)};
}

/// c[0] + x (c[1] + x (c[2] + ...)).
template <std::size_t N>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256d polynomial(
    __m256d x, const std::array<double, N>& coefficients) noexcept {
  __m256d sum = _mm256_set1_pd(coefficients[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) sum = _mm256_fmadd_pd(sum, x, _mm256_set1_pd(coefficients[i]));
  return sum;
}

/// log((word + 1) / 2^32), to a relative error below 2^-50: as the series of atanh, after what is a power of two
/// (fdlibm's e_log.c, whose coefficients these are).
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256d log_of(__m256i word) noexcept {
  static constexpr std::array series{6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                     2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                     1.479819860511658591e-01};
  constexpr std::uint64_t root_of_half = 0x3FE6'A09E'667F'3BCDU;
  const __m256i bits = _mm256_castpd_si256(_mm256_add_pd(to_double(word), _mm256_set1_pd(1.0)));
  const __m256i exponent = _mm256_srli_epi64(_mm256_sub_epi64(bits, all64(root_of_half)), 52);
  const __m256d mantissa = reals(_mm256_sub_epi64(bits, _mm256_slli_epi64(exponent, 52)));  // from sqrt(1/2) to sqrt(2)
  const __m256d f = _mm256_sub_pd(mantissa, _mm256_set1_pd(1.0));
  const __m256d s = _mm256_div_pd(f, _mm256_add_pd(f, _mm256_set1_pd(2.0)));
  const __m256d square = _mm256_mul_pd(s, s);
  const __m256d factor = _mm256_fmadd_pd(square, polynomial(square, series), _mm256_set1_pd(2.0));
  const __m256d power = _mm256_sub_pd(to_double(exponent), _mm256_set1_pd(32.0));
  return _mm256_fmadd_pd(power, _mm256_set1_pd(0x1.62e42fefa39efp-1), _mm256_mul_pd(s, factor));
}

/// cos(2 pi word / 2^32), to an absolute error below 2^-51: the nearest quarter of the circle is exact, the rest a
/// series (fdlibm's k_cos.c and k_sin.c, whose coefficients these are).
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m256d cosine_of(__m256i word) noexcept {
  static constexpr std::array cosine{1.0,
                                     -0.5,
                                     4.16666666666666019037e-02,
                                     -1.38888888888741095749e-03,
                                     2.48015872894767294178e-05,
                                     -2.75573143513906633035e-07,
                                     2.08757232129817482790e-09,
                                     -1.13596475577881948265e-11};
  static constexpr std::array sine{1.0,
                                   -1.66666666666666324348e-01,
                                   8.33333333332248946124e-03,
                                   -1.98412698298579493134e-04,
                                   2.75573137070700676789e-06,
                                   -2.50507602534068634195e-08,
                                   1.58969099521155010221e-10};
  const __m256i quarter = _mm256_srli_epi64(_mm256_add_epi64(word, all64(1U << 29)), 30);
  const __m256d rest = _mm256_fnmadd_pd(to_double(quarter), _mm256_set1_pd(0x1p30), to_double(word));
  const __m256d angle = _mm256_mul_pd(rest, _mm256_set1_pd(0x1.921fb54442d18p0 * 0x1p-30));  // of at most pi / 4
  const __m256d square = _mm256_mul_pd(angle, angle);
  const __m256d is_odd = reals(_mm256_slli_epi64(quarter, 63));
  const __m256d value =
      _mm256_blendv_pd(polynomial(square, cosine), _mm256_mul_pd(angle, polynomial(square, sine)), is_odd);
  // Negative in the second and the third of the quarters that begin at 0.
  const __m256i sign = _mm256_slli_epi64(_mm256_srli_epi64(_mm256_add_epi64(quarter, all64(1)), 1), 63);
  return _mm256_xor_pd(value, reals(sign));
}

/// What `NormalValues` makes of four pairs of words. Its double-precision values and these differ by less than 2^-48
/// times the radius, for any library that computes logarithms and cosines to an ulp or two. Where such a distance may
/// round to another float, one in some millions, its own values are taken.
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline __m128 normal4(RandomWords words) noexcept {
  const __m256d radius = _mm256_sqrt_pd(_mm256_mul_pd(_mm256_set1_pd(-2.0), log_of(words.first)));
  const __m256d value = _mm256_mul_pd(radius, cosine_of(words.second));
  const __m256d error = _mm256_fmadd_pd(radius, _mm256_set1_pd(0x1p-47), _mm256_set1_pd(1e-30));
  const __m128 least = _mm256_cvtpd_ps(_mm256_sub_pd(value, error));
  const __m128 most = _mm256_cvtpd_ps(_mm256_add_pd(value, error));
  const int is_certain = _mm_movemask_ps(_mm_cmpeq_ps(least, most));
  if (is_certain == 0b1111) [[likely]]
    return least;
  alignas(32) std::array<std::uint64_t, 4> first;
  alignas(32) std::array<std::uint64_t, 4> second;
  alignas(16) std::array<float, 4> values;
  _mm256_store_si256(reinterpret_cast<__m256i*>(first.data()), words.first);
  _mm256_store_si256(reinterpret_cast<__m256i*>(second.data()), words.second);
  for (std::size_t i = 0; i < 4; ++i) {
    values[i] = standard_normal(static_cast<std::uint32_t>(first[i]), static_cast<std::uint32_t>(second[i]));
  }
  return _mm_load_ps(values.data());
}

/// Fills whole fours. @return How many values it has filled.
[[gnu::target("avx2,fma,f16c")]] inline std::size_t fill(const NormalValues& normal, const InitializerContext& context,
                                                         std::uint64_t first, std::span<float> values) noexcept {
  const __m128 deviation = _mm_set1_ps(normal.standard_deviation);
  std::size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    const RandomWords low = philox4(context.seed, context.stream, first + i);
    const RandomWords high = philox4(context.seed, context.stream, first + i + 4);
    _mm_storeu_ps(&values[i], _mm_mul_ps(deviation, normal4(low)));
    _mm_storeu_ps(&values[i + 4], _mm_mul_ps(deviation, normal4(high)));
  }
  return i;
}

[[gnu::target("avx2,fma,f16c")]] inline std::size_t fill(const UniformValues& uniform,
                                                         const InitializerContext& context, std::uint64_t first,
                                                         std::span<float> values) noexcept {
  const __m128 bound = _mm_set1_ps(uniform.bound);
  const __m256d one = _mm256_set1_pd(1.0);
  std::size_t i = 0;
  for (; i + 4 <= values.size(); i += 4) {
    const __m256d word = to_double(philox4(context.seed, context.stream, first + i).first);
    const __m256d value = _mm256_fmsub_pd(word, _mm256_set1_pd(0x1p-31), one);  // exact, in either way
    _mm_storeu_ps(&values[i], _mm_mul_ps(bound, _mm256_cvtpd_ps(value)));
  }
  return i;
}

}  // namespace avx2
#endif

/// Fills `values` as `ours` does. @param set One that this processor has.
template <class Values>
void fill_values(const Values& ours, const InitializerContext& context, std::uint64_t first, std::span<float> values,
                 [[maybe_unused]] InstructionSet set) {
  std::size_t filled = 0;
#if defined(__x86_64__)
  if (has_avx2(set)) filled = avx2::fill(ours, context, first, values);
#endif
  ours(context, first + filled, values.subspan(filled));
}

}  // namespace detail

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of std::function::target, by GCC 12
#endif
/// Calls `initializer(context, first, values)`, or fills the values with the same bits by vector instructions, where it
/// is one of `init`'s.
/// @param set One that this processor has.
inline void initialize(const Initializer& initializer, const InitializerContext& context, std::uint64_t first,
                       std::span<float> values, InstructionSet set = best_instruction_set()) {
  if (const auto* normal = initializer.target<detail::NormalValues>()) {
    detail::fill_values(*normal, context, first, values, set);
  } else if (const auto* uniform = initializer.target<detail::UniformValues>()) {
    detail::fill_values(*uniform, context, first, values, set);
  } else if (const auto* part = initializer.target<detail::PartOfMatrix>()) {
    part->for_each_run(context, first, values,
                       [&](const InitializerContext& of_whole, std::uint64_t place, std::span<float> run) {
                         initialize(part->whole, of_whole, place, run, set);
                       });
  } else {
    initializer(context, first, values);
  }
}
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace zerospan::inline v0
