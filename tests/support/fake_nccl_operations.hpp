/// @file
/// What the collectives of a fake NCCL send, receive and sum.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "support/fake_nccl_clique.hpp"

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

namespace fake {

using zerospan::element_bytes;
using zerospan::Reduction;

inline std::size_t all_from_the_start(int) { return 0; }

inline Operation gather(const Communicator& c, std::byte* buffer, std::size_t shard) {
  Operation operation;
  for (int peer = 0; peer < c.clique->size; ++peer) {
    if (peer == c.rank.value) continue;
    operation.sends.push_back({peer, buffer + static_cast<std::size_t>(c.rank.value) * shard, shard});
    operation.receives.push_back({peer, buffer + static_cast<std::size_t>(peer) * shard, shard});
  }
  return operation;
}

inline Operation spread(const Communicator& c, std::byte* data, std::size_t bytes, Rank root) {
  Operation operation;
  if (c.rank != root) operation.receives.push_back({root.value, data, bytes});
  for (int peer = 0; c.rank == root && peer < c.clique->size; ++peer) {
    if (peer != root.value) operation.sends.push_back({peer, data, bytes});
  }
  return operation;
}

/// Every rank that `receives` gets the others' operands, which begin at `offset(rank)` for it.
template <class Offset, class Receives>
void exchange(const Communicator& c, Operation& operation, std::byte* input, std::size_t bytes, Offset offset,
              Receives receives) {
  operation.space.resize(static_cast<std::size_t>(c.clique->size));
  for (int peer = 0; peer < c.clique->size; ++peer) {
    if (peer == c.rank.value) continue;
    if (receives(peer)) operation.sends.push_back({peer, input + offset(peer), bytes});
    if (!receives(c.rank.value)) continue;
    auto& space = operation.space[static_cast<std::size_t>(peer)];
    space.resize(bytes);
    operation.receives.push_back({peer, space.data(), bytes});
  }
}

/// A sum in another order than that of ranks, in the inputs' type.
template <class Offset, class Receives>
Operation sum(const Communicator& c, const Reduction& r, Offset offset, Receives receives) {
  Operation operation;
  exchange(c, operation, const_cast<std::byte*>(r.input), r.elements * element_bytes(r.input_type), offset, receives);
  if (!receives(c.rank.value)) return operation;
  operation.after = [r, own = r.input + offset(c.rank.value)](Operation& done) {
    std::vector<const std::byte*> inputs;
    for (const auto& space : done.space) inputs.push_back(space.empty() ? own : space.data());
    std::ranges::reverse(inputs);
    zerospan::rank_order_sum(inputs, r.input_type, r.output, r.output_type, r.elements);
  };
  return operation;
}

inline Operation sum_integers(const Communicator& c, std::int64_t* integers, std::size_t count) {
  Operation operation;
  exchange(c, operation, reinterpret_cast<std::byte*>(integers), count * sizeof(std::int64_t), all_from_the_start,
           [](int) { return true; });
  operation.after = [integers, count](Operation& done) {
    for (const auto& addends : done.space) {
      for (std::size_t i = 0; i < count && !addends.empty(); ++i) {
        std::int64_t addend = 0;
        std::memcpy(&addend, addends.data() + i * sizeof addend, sizeof addend);
        integers[i] += addend;
      }
    }
  };
  return operation;
}

}  // namespace fake
