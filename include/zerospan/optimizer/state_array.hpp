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

constexpr const char* to_string(StateForm form) noexcept {
  return form == StateForm::values ? "values" : form == StateForm::codes ? "codes" : "scales";
}

/// Elements that share a scale in an array of `StateForm::scales`: divides `block_elements`.
inline constexpr std::size_t scaled_elements = 256;

/// How many bytes elements take, each of some bytes, or so many of them together.
struct ElementWidth {
  std::size_t bytes;
  std::size_t elements = 1;

  /// Bytes of so many elements, the first of which is the first of those that share their bytes.
  constexpr std::size_t of(std::size_t count) const noexcept { return (count + elements - 1) / elements * bytes; }

  /// Elements in so many bytes.
  constexpr std::size_t elements_in(std::size_t count) const noexcept { return count / bytes * elements; }

  friend constexpr bool operator==(const ElementWidth&, const ElementWidth&) = default;
};

/// The width of an element in an array of states.
constexpr ElementWidth state_width(ElementType type, StateForm form) noexcept {
  if (form == StateForm::codes) return {1};
  return {element_bytes(type), form == StateForm::scales ? scaled_elements : 1};
}

/// One array of an optimizer's states. Arrays of scales come behind all others.
struct StateArray {
  std::string_view name;  ///< A literal. Where PyTorch has the same state, its name there.
  ElementType type = ElementType::float32;
  StateForm form = StateForm::values;

  constexpr ElementWidth width() const noexcept { return state_width(type, form); }

  friend constexpr bool operator==(const StateArray&, const StateArray&) = default;
};

}  // namespace zerospan::inline v0
