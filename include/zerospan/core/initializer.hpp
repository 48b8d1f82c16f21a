/// @file
/// Initializers: parameters are born partitioned, each rank fills its own shards by logical index.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numbers>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/philox.hpp>

namespace zerospan::inline v0 {

/// The random stream of the parameter of that name (FNV-1a): what else a model declares, and in which order, does not
/// change a parameter's initial values.
constexpr std::uint64_t name_stream(std::string_view name) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

/// What an initializer is told about the parameter.
struct InitializerContext {
  std::uint64_t seed;    ///< The engine's.
  std::uint64_t stream;  ///< `name_stream` of the parameter's name.
};

/// Fills `values[i]` with the initial value of logical element `first + i`. It is called for the ranges that a rank
/// owns, once declaration has ended, on a thread of the library, in no promised order; it must give the same value for
/// the same index wherever it runs, and must own (or outlive) what it reads.
///
/// Ranks compare which of the library's own initializers (`init`) they were given, and with what arguments. A function
/// of the host's own they cannot compare: each rank asks it for what it holds, and it may have no more. One that
/// differs from rank to rank is not noticed: each rank's part of the parameter begins with that rank's values, and with
/// `Stage0` all of each rank's copy does.
using Initializer =
    std::function<void(const InitializerContext& context, std::uint64_t first, std::span<float> values)>;

namespace detail {

/// The library's own initializers have types, by which ranks can compare them.
struct ConstantValues {
  float value;

  void operator()(const InitializerContext&, std::uint64_t, std::span<float> values) const {
    for (float& v : values) v = value;
  }
};

/// A normal value of deviation 1, by Box and Muller's formula, of two words of random bits.
inline float standard_normal(std::uint32_t first, std::uint32_t second) {
  const double u = (static_cast<double>(first) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle = static_cast<double>(second) * 0x1p-32 * 2.0 * std::numbers::pi;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(angle));
}

struct NormalValues {
  float standard_deviation;

  void operator()(const InitializerContext& context, std::uint64_t first, std::span<float> values) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto word = philox(context.seed, context.stream, first + i);
      values[i] = standard_deviation * standard_normal(word[0], word[1]);
    }
  }
};

struct UniformValues {
  float bound;

  void operator()(const InitializerContext& context, std::uint64_t first, std::span<float> values) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto word = philox(context.seed, context.stream, first + i);
      values[i] = bound * static_cast<float>(static_cast<double>(word[0]) * 0x1p-31 - 1.0);
    }
  }
};

/// The values that a part of a matrix has in the whole.
struct PartOfMatrix {
  Initializer whole;
  std::uint64_t stream;      ///< Of the whole matrix.
  std::size_t columns;       ///< Likewise.
  std::size_t first_row;     ///< Of the part.
  std::size_t first_column;  ///< Likewise.
  std::size_t row_elements;  ///< Likewise.

  void operator()(const InitializerContext& context, std::uint64_t first, std::span<float> values) const {
    for_each_run(context, first, values, whole);
  }

  /// Calls `fill(context, first, values)` for each contiguous run of the whole matrix in turn.
  template <class Fill>
  void for_each_run(const InitializerContext& context, std::uint64_t first, std::span<float> values, Fill fill) const {
    const bool has_all_columns = row_elements == columns;
    while (!values.empty()) {
      const std::uint64_t row = first_row + first / row_elements;
      const std::size_t column = first % row_elements;
      const std::size_t run = has_all_columns ? values.size() : std::min(values.size(), row_elements - column);
      fill(InitializerContext{context.seed, stream}, row * columns + first_column + column, values.first(run));
      first += run;
      values = values.subspan(run);
    }
  }
};

inline bool is_our_initializer(const Initializer& initializer) noexcept {
  if (const auto* part = initializer.target<PartOfMatrix>()) return is_our_initializer(part->whole);
  return initializer.target<ConstantValues>() || initializer.target<NormalValues>() ||
         initializer.target<UniformValues>();
}

}  // namespace detail

namespace init {

/// Every element is `value`.
inline Initializer constant(float value) { return detail::ConstantValues{value}; }

/// Every element is zero.
inline Initializer zeros() { return constant(0.0F); }

/// Every element is one.
inline Initializer ones() { return constant(1.0F); }

/// Independent normal values of mean 0: Box-Muller over Philox4x32-10 keyed by seed and parameter, one counter an
/// element.
inline Initializer normal(float standard_deviation) { return detail::NormalValues{standard_deviation}; }

/// Independent values, uniform in [-bound, bound).
inline Initializer uniform(float bound) { return detail::UniformValues{bound}; }

}  // namespace init

}  // namespace zerospan::inline v0
