/// @file
/// What a reduction gives, element by element.
#pragma once

#include <cstddef>
#include <vector>

#include <zerospan/core/element.hpp>

namespace zerospan_test {

using Buffer = std::vector<std::byte>;

struct Types {
  zerospan::ElementType input;
  zerospan::ElementType output;
};

/// Values of either sign whose magnitudes span 24 octaves, so that the order of additions shows in the bits.
float value(int rank, std::size_t i);

float rounded(float x, zerospan::ElementType type);

void append(Buffer& buffer, float x, zerospan::ElementType type);

Buffer input_of(int rank, std::size_t elements, zerospan::ElementType type);

/// The definition of a reduction.
Buffer oracle(int ranks, std::size_t first, std::size_t elements, Types types);

}  // namespace zerospan_test
