/// @file
/// Checkpoint: one tensor between its push and its pop.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace zerospan::inline v0::detail {

struct Checkpoint {
  Shape shape;
  ElementType type;
  std::size_t offset = 0;               ///< In device memory: where it is, or was when it left.
  std::size_t place = 0;                ///< On the tier, once it is saved.
  std::size_t ordinal = 0;              ///< How many of its pass were committed before it.
  std::vector<Completion> ready{};      ///< What reading it in device memory waits for.
  Completion copied{};                  ///< The end of reading it there for the tier.
  std::vector<Completion> transfers{};  ///< The ends of what uses its place on the tier.

  std::size_t bytes() const { return shape.elements() * element_bytes(type); }
  std::size_t device_bytes() const { return round_up(bytes(), WorkingMemory::alignment); }
};

/// "a checkpoint of float32 [128 x 64]".
inline std::string describe(const Checkpoint& checkpoint) {
  std::string text = "a checkpoint of " + std::string{to_string(checkpoint.type)} + " [";
  for (std::size_t i = 0; i < checkpoint.shape.rank(); ++i) {
    text += (i == 0 ? "" : " x ") + std::to_string(checkpoint.shape[i]);
  }
  return text + "]";
}

}  // namespace zerospan::inline v0::detail
