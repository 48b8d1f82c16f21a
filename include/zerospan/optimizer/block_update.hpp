/// @file
/// Updates block by block: what an optimizer needs that computes element by element, in fp32.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0 {

/// A block of a run, its gradient widened and scaled.
struct BlockUpdate {
  float* master;  ///< Updated in place.
  float* state;   ///< The first fp32 state, updated in place; the next ones are `capacity` further each. May be null
                  ///< without states.
  std::size_t capacity;   ///< Elements of the sub-group.
  const float* gradient;  ///< The mean gradient, clipped, in fp32.
  std::size_t elements;   ///< `block_elements`, or fewer at the end of a run.
};

/// Calls `update(block)` for the blocks of a run, in order, and writes the elements it leaves in `block.master`,
/// rounded to the parameter's type. Gradients are widened, and elements rounded, while they are in the first-level
/// cache: an update is one pass over memory, and knows of no type but float.
/// @param set One that this processor has.
template <class F>
requires std::invocable<F&, const BlockUpdate&>
void update_blocks(const ShardUpdate& shard, F&& update, InstructionSet set = best_instruction_set()) {
  alignas(64) std::array<float, block_elements> gradient{};
  for (std::size_t done = 0; done < shard.elements; done += block_elements) {
    const std::size_t count = std::min(block_elements, shard.elements - done);
    to_float(shard.gradient_type, shard.gradient + done * element_bytes(shard.gradient_type), gradient.data(), count,
             set);
    for (float& g : gradient) g *= shard.gradient_scale;
    const std::size_t first = shard.first + done;
    update(BlockUpdate{.master = shard.master + done,
                       .state = shard.states ? reinterpret_cast<float*>(shard.states) + first : nullptr,
                       .capacity = shard.capacity,
                       .gradient = gradient.data(),
                       .elements = count});
    if (shard.parameter_is_master()) continue;
    from_float(shard.master + done, shard.parameter_type, shard.parameter + done * element_bytes(shard.parameter_type),
               count, set);
  }
}

}  // namespace zerospan::inline v0
