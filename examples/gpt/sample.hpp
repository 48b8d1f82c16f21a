/// @file
/// Text that the model writes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <zerospan/core/philox.hpp>

#include "tensor.hpp"

namespace gpt {

/// Below 1, likely bytes become likelier.
inline constexpr double sample_temperature = 0.8;

/// Draws from softmax(logits / temperature). @param uniform In [0, 1).
template <class S>
std::uint8_t draw(std::span<const S> logits, double temperature, double uniform) {
  const auto largest = static_cast<double>(*std::ranges::max_element(logits));
  std::vector<double> cumulative;
  double sum = 0;
  for (const S logit : logits) {
    sum += std::exp((static_cast<double>(logit) - largest) / temperature);
    cumulative.push_back(sum);
  }
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), uniform * sum);
  const auto last = static_cast<std::ptrdiff_t>(logits.size()) - 1;
  return static_cast<std::uint8_t>(std::min(chosen - cumulative.begin(), last));
}

/// `count` bytes after a newline. Every rank takes part, and gets the same text.
/// @param forward Called with the last bytes, at most `context`; returns the logits of the byte that follows.
template <class S, class Forward>
std::string sample(std::size_t count, std::size_t context, std::uint64_t seed, Forward forward) {
  constexpr std::uint64_t sample_stream = std::uint64_t{0x73616D70} << 32;  // keeps clear of other uses of the seed
  std::vector<std::uint8_t> bytes{'\n'};
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t length = std::min(bytes.size(), context);
    const std::span<const S> logits = forward(std::span<const std::uint8_t>{bytes}.last(length));
    const double uniform = static_cast<double>(zerospan::philox(seed, sample_stream, i)[0]) * 0x1p-32;
    bytes.push_back(draw(logits, sample_temperature, uniform));
  }
  return {bytes.begin() + 1, bytes.end()};
}

/// Replaces what a terminal might obey: everything but printable ASCII, tabs and newlines becomes '?'.
inline std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return (c < ' ' || c > '~') && c != '\n' && c != '\t'; }, '?');
  return text;
}

}  // namespace gpt
