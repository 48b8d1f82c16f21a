/// @file
/// with_parameter_copy: updates of fp32 parameters that rest apart from their master weights.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// Calls `update(shard)`, which writes the parameter, unless that is of fp32: its new elements are the master weights.
/// Where it rests apart from them, it is updated in pieces, each of which is copied while it is in the first-level
/// cache.
template <class F>
void with_parameter_copy(const ShardUpdate& shard, F&& update) {
  if (shard.parameter_type != ElementType::float32 || shard.parameter_is_master()) return update(shard);
  constexpr std::size_t most = 8 * block_elements;
  for (std::size_t done = 0; done < shard.elements; done += most) {
    const ShardUpdate piece = shard.part(done, std::min(most, shard.elements - done));
    update(piece);
    std::memcpy(piece.parameter, piece.master, piece.elements * sizeof(float));
  }
}

}  // namespace zerospan::inline v0::detail
