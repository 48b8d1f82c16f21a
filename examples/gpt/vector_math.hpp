/// @file
/// Elementary functions and reductions that compilers vectorize without being allowed to reorder arithmetic.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "tensor.hpp"

namespace gpt {

inline double exponential(double x) { return std::exp(x); }

/// e^x to a relative 2e-7; the argument is clamped to [-87, 87]; NaN stays NaN. Cephes' expf: e^x = 2^n e^r.
/// Comparisons are of integers: compilers turn those of floats, which may trap, into branches.
inline float exponential(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto magnitude = static_cast<std::int32_t>(bits & 0x7FFFFFFFU);
  constexpr auto infinity = std::bit_cast<std::int32_t>(std::numeric_limits<float>::infinity());
  constexpr auto limit = std::bit_cast<std::int32_t>(87.0F);
  const std::int32_t clamped = magnitude > limit && magnitude <= infinity ? limit : magnitude;
  const auto argument = std::bit_cast<float>(static_cast<std::uint32_t>(clamped) | (bits & 0x80000000U));

  constexpr float to_integer = 0x1.8p23F;  // adding and subtracting it rounds to the nearest integer
  const float shifted = argument * 1.44269504F + to_integer;
  const float n = shifted - to_integer;
  const float r = (argument - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const std::uint32_t exponent =
      std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(to_integer) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

namespace detail {

inline constexpr std::size_t lanes = 16;

/// Folds `term(0), ..., term(count - 1)` in fixed lanes.
template <class S, class Term, class Combine>
S fold(std::size_t count, S identity, Term term, Combine combine) {
  std::array<S, lanes> partial;
  partial.fill(identity);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) partial[lane] = combine(partial[lane], term(i + lane));
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) partial[lane] = combine(partial[lane], term(i));
  for (std::size_t half = lanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) partial[lane] = combine(partial[lane], partial[lane + half]);
  }
  return partial[0];
}

}  // namespace detail

/// term(0) + ... + term(count - 1).
template <class S, class Term>
S sum(std::size_t count, Term term) {
  return detail::fold(count, S{0}, term, [](S a, S b) { return a + b; });
}

template <class S>
S maximum(const S* values, std::size_t count) {
  return detail::fold(
      count, values[0], [values](std::size_t i) { return values[i]; }, [](S a, S b) { return a < b ? b : a; });
}

/// Replaces `values` by their softmax; returns the logarithm of the normalizer: x_i - result = log(softmax_i).
template <class S>
S softmax(S* values, std::size_t count) {
  const S largest = maximum(values, count);
  for (std::size_t i = 0; i < count; ++i) values[i] = exponential(values[i] - largest);
  const S total = sum<S>(count, [values](std::size_t i) { return values[i]; });
  const S scale = S{1} / total;
  for (std::size_t i = 0; i < count; ++i) values[i] *= scale;
  return largest + std::log(total);
}

/// to += from, for matrices of contiguous rows.
template <class S>
void add(Input<S> from, Tensor<S> to) {
  for (std::size_t i = 0; i < to.size(); ++i) to.data[i] += from.data[i];
}

/// Fills `total`, a vector, with the sum of the rows of `matrix`.
template <class S>
void sum_of_rows(Input<S> matrix, Tensor<S> total) {
  std::fill_n(total.data, total.columns, S{0});
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    const S* row = matrix.row(r);
    for (std::size_t c = 0; c < matrix.columns; ++c) total.data[c] += row[c];
  }
}

}  // namespace gpt
