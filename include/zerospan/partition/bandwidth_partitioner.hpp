/// @file
/// BandwidthPartitioner: which rank owns which elements of a parameter.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// How partitioned parameters are divided among the ranks.
enum class PartitionStrategy : std::uint8_t {
  slices,  ///< Each over all ranks: BandwidthPartitioner.
  owners,  ///< Each whole with one rank: OwnerPartitioner.
};

/// How one parameter is cut: shard r holds the logical elements from `first(r)` on, `count(r)` of them, in
/// `shard_elements` places. All shards are of the same size, whole blocks; the places past the last element are
/// padding.
struct Partition {
  std::size_t elements;
  std::size_t shards;
  std::size_t shard_elements;   ///< A multiple of `block_elements`.
  std::optional<Rank> owner{};  ///< The one rank that holds its only shard, if not every rank holds one.

  /// Elements of the gathered buffer, padding included; its first `elements` are the tensor.
  constexpr std::size_t padded_elements() const noexcept { return shards * shard_elements; }

  constexpr std::size_t first(std::size_t shard) const noexcept { return shard * shard_elements; }

  /// Logical elements of a shard, padding not counted.
  constexpr std::size_t count(std::size_t shard) const noexcept {
    return std::min(shard_elements, elements - std::min(elements, first(shard)));
  }
};

/// Bandwidth-centric partitioning: every parameter is sliced over all ranks, so that each rank moves its own 1/P of it
/// through its own links, and gathering is one all-gather (ZeRO-Infinity, arXiv 2104.07857, section 6.1).
class BandwidthPartitioner {
 public:
  constexpr explicit BandwidthPartitioner(std::size_t shards) noexcept : shards_{shards} {}

  constexpr Partition slice(std::size_t elements) const noexcept {
    const std::size_t blocks = (elements + block_elements - 1) / block_elements;
    return {elements, shards_, (blocks + shards_ - 1) / shards_ * block_elements};
  }

 private:
  std::size_t shards_;
};

}  // namespace zerospan::inline v0
