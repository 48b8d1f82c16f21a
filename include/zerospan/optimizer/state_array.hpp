/// @file
/// StateArray: what an optimizer tells of its states, so that each element's can be read and written by themselves.
#pragma once

#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>

namespace zerospan::inline v0 {

/// One array of an optimizer's states: an element for each of the parameter's.
struct StateArray {
  std::string_view name;  ///< A literal. Where PyTorch has the same state, its name there.
  ElementType type = ElementType::float32;

  friend constexpr bool operator==(const StateArray&, const StateArray&) = default;
};

}  // namespace zerospan::inline v0
