/// @file
/// StateArray: what an optimizer tells of its states, so that each element's can be read and written by themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>

namespace zerospan::inline v0 {

/// What an array of states has of the parameter's elements.
enum class StateForm : std::uint8_t {
  values,  ///< A value of the array's type for each element.
  codes,   ///< A byte for each element, of which the optimizer knows what it means.
  scales,  ///< A value of the array's type for each `scaled_elements` elements: what their codes are shares of.
};

/// Elements that share a scale in an array of `StateForm::scales`: divides `block_elements`.
inline constexpr std::size_t scaled_elements = 256;

/// One array of an optimizer's states.
struct StateArray {
  std::string_view name;  ///< A literal. Where PyTorch has the same state, its name there.
  ElementType type = ElementType::float32;
  StateForm form = StateForm::values;

  friend constexpr bool operator==(const StateArray&, const StateArray&) = default;
};

}  // namespace zerospan::inline v0
