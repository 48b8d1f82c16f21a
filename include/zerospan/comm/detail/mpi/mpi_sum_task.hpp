/// @file
/// What a reduction between processes sums, and for whom.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Consecutive elements of a reduction, or bytes of a broadcast.
struct MpiSlice {
  std::size_t first;
  std::size_t elements;
};

/// Deals elements to ranks, evenly but for the last.
inline std::vector<MpiSlice> even_slices(std::size_t elements, int ranks) {
  const auto count = static_cast<std::size_t>(ranks);
  const std::size_t even = round_up((elements + count - 1) / count, 64);
  std::vector<MpiSlice> slices;
  for (std::size_t rank = 0; rank < count; ++rank) {
    const std::size_t first = std::min(rank * even, elements);
    slices.push_back({first, std::min(even, elements - first)});
  }
  return slices;
}

/// What is summed, and who gets the sums: each rank those of its slice alone, or one rank or every rank all of them.
struct MpiSumTask {
  enum class Audience : std::uint8_t { slices, root, everybody };

  Audience audience;
  Rank root;                     ///< Of the audience `root`.
  std::vector<MpiSlice> slices;  ///< Each rank's elements of the input.
  const std::byte* input;
  std::size_t input_width;  ///< Bytes of an element.
  std::byte* output;        ///< What this rank gets.
  std::size_t output_width;

  bool gets_all(int rank) const noexcept {
    return audience == Audience::everybody || (audience == Audience::root && rank == root.value);
  }

  /// Where this rank's own sums belong in what it gets; nullptr if only others get them.
  std::byte* own_output(int me) const noexcept {
    if (audience == Audience::slices) return output;
    return gets_all(me) ? output + slices[static_cast<std::size_t>(me)].first * output_width : nullptr;
  }

  /// The elements of the input that make up what a rank gets.
  MpiSlice summands_of(int rank) const noexcept {
    if (audience == Audience::slices) return slices[static_cast<std::size_t>(rank)];
    return {0, gets_all(rank) ? slices.back().first + slices.back().elements : 0};
  }

  /// The most that a rank needs of another's input.
  std::size_t largest_operand() const noexcept {
    std::size_t most = 0;
    for (int rank = 0; rank < static_cast<int>(slices.size()); ++rank)
      most = std::max(most, summands_of(rank).elements);
    return most * input_width;
  }
};

}  // namespace zerospan::inline v0::detail
