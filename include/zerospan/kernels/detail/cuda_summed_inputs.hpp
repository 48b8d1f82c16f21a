/// @file
/// How many ranks a CUDA device sums at once.
#pragma once

#include <cstddef>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// The most inputs of one sum: their addresses are parameters of the kernel.
inline constexpr std::size_t most_summed_inputs = 256;

/// @throws ConfigurationError of more.
inline void check_summed_inputs(std::size_t inputs) {
  if (inputs <= most_summed_inputs) return;
  throw_configuration_error("a sum of " + std::to_string(inputs) + " ranks on a CUDA device; at most " +
                            std::to_string(most_summed_inputs) + " can be summed");
}

}  // namespace zerospan::inline v0::detail
