/// @file
/// What the kernels of block quantization have to do, whatever machine runs them: what the CPU does, bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>

#include "kernel_arrays.hpp"

namespace zerospan_test {

using zerospan::encoded_bytes;
using zerospan::QuantizedType;

/// What the CPU makes of a rank's elements.
inline Bits encoded(ElementType element, const Bits& bits, QuantizedType type, std::size_t n) {
  Bits codes(encoded_bytes(n, type));
  zerospan::encode_blocks(zerospan::calling_thread, element, bits.data(), type, codes.data(), n);
  return codes;
}

/// @param shift Elements from a vector boundary to the elements, and words to the codes.
template <class Machine>
void check_quantization(Machine& machine, ElementType element, QuantizedType type, std::size_t n, std::size_t ranks,
                        std::pair<std::size_t, std::size_t> shift, Values values) {
  std::vector<Bits> codes;
  std::vector<Array<Machine>> on_machine;
  std::vector<const std::byte*> inputs;
  std::vector<const std::byte*> inputs_on_machine;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const Bits bits = elements(element, n, values, 100 * n + rank);
    codes.push_back(encoded(element, bits, type, n));
    const Array<Machine> source{machine, element, bits, shift.first};
    on_machine.emplace_back(machine, ElementType::float32, Bits(codes.back().size()), shift.second);
    machine.encode_blocks(element, source.data(), type, on_machine.back().data(), n);
    CHECK(on_machine.back().read() == codes.back());
    inputs_on_machine.push_back(on_machine.back().data());
  }
  for (const Bits& bits : codes) inputs.push_back(bits.data());
  Bits expected(n * element_bytes(element));
  zerospan::sum_blocks(zerospan::calling_thread, inputs, type, element, expected.data(), n);
  const Array<Machine> sum{machine, element, Bits(expected.size()), shift.first};
  machine.sum_blocks(inputs_on_machine, type, element, sum.data(), n);
  CHECK(same_elements(element, sum.read(), expected));
  machine.release();
}

template <class Machine>
void check_quantization(Machine& machine) {
  constexpr std::array<std::size_t, 10> counts{0, 1, 3, 127, 129, 256, 257, 1024, 5003, 33333};
  constexpr std::array<std::pair<std::size_t, std::size_t>, 3> places{{{0, 0}, {1, 1}, {4, 3}}};
  for (const ElementType element : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
    for (const QuantizedType type : {QuantizedType::int8, QuantizedType::int4}) {
      for (const std::size_t n : counts) {
        for (const std::size_t ranks : {1U, 2U, 5U}) {
          for (const auto& place : places) {
            for (const Values values : {Values::moderate, Values::any}) {
              CAPTURE(zerospan::to_string(element));
              CAPTURE(zerospan::to_string(type));
              CAPTURE(n);
              CAPTURE(ranks);
              CAPTURE(place.first);
              check_quantization(machine, element, type, n, ranks, place, values);
            }
          }
        }
      }
    }
  }
}

}  // namespace zerospan_test
