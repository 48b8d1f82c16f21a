#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/bandwidth_partitioner.hpp>

namespace {

using zerospan::BandwidthPartitioner;
using zerospan::block_elements;
using zerospan::Partition;

/// Sizes around every boundary that matters, and random ones.
std::vector<std::size_t> sizes(std::size_t shards) {
  std::vector<std::size_t> result{1, 2, block_elements - 1, block_elements, block_elements + 1};
  for (const std::size_t blocks : {shards - 1, shards, shards + 1, 2 * shards, 7 * shards + 3}) {
    for (const std::size_t n : {blocks * block_elements, blocks * block_elements + 1}) {
      if (n > 0) result.push_back(n);
      if (n > 1) result.push_back(n - 1);
    }
  }
  std::mt19937_64 random{shards};
  for (int i = 0; i < 40; ++i) result.push_back(1 + random() % (std::size_t{1} << (1 + random() % 34)));
  return result;
}

template <class F>
void for_each_partition(F f) {
  for (const std::size_t shards : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 1000}) {
    for (const std::size_t elements : sizes(shards)) {
      CAPTURE(shards);
      CAPTURE(elements);
      f(BandwidthPartitioner{shards}.slice(elements), shards, elements);
    }
  }
}

TEST_CASE("shards are of one size, in whole blocks, and no larger than needed") {
  for_each_partition([](const Partition& p, std::size_t shards, std::size_t elements) {
    REQUIRE(p.elements == elements);
    REQUIRE(p.shards == shards);
    REQUIRE(p.shard_elements % block_elements == 0);
    REQUIRE(p.padded_elements() == shards * p.shard_elements);
    REQUIRE(p.padded_elements() >= elements);
    REQUIRE((p.shard_elements - block_elements) * shards < elements);  // a block less would not hold them
    REQUIRE(p.padded_elements() - elements < shards * block_elements);
  });
}

TEST_CASE("every element is in exactly one shard, in order") {
  for_each_partition([](const Partition& p, std::size_t shards, std::size_t elements) {
    std::size_t next = 0;
    for (std::size_t shard = 0; shard < shards; ++shard) {
      REQUIRE(p.first(shard) == shard * p.shard_elements);
      REQUIRE(p.count(shard) <= p.shard_elements);
      if (p.count(shard) > 0) REQUIRE(p.first(shard) == next);
      next += p.count(shard);
    }
    REQUIRE(next == elements);
  });
}

TEST_CASE("padding follows the last element: only the last shards may be padding alone") {
  for_each_partition([](const Partition& p, std::size_t shards, std::size_t elements) {
    const std::size_t with_elements = (elements + p.shard_elements - 1) / p.shard_elements;
    for (std::size_t shard = 0; shard < shards; ++shard) REQUIRE((p.count(shard) > 0) == (shard < with_elements));
    for (std::size_t shard = 0; shard + 1 < with_elements; ++shard) REQUIRE(p.count(shard) == p.shard_elements);
  });
}

TEST_CASE("partitions that were worked out by hand") {
  const Partition scalar = BandwidthPartitioner{4}.slice(1);
  CHECK(scalar.shard_elements == 1024);
  CHECK(scalar.padded_elements() == 4096);
  CHECK(scalar.count(0) == 1);
  CHECK(scalar.count(1) == 0);
  CHECK(scalar.count(3) == 0);

  const Partition five_blocks = BandwidthPartitioner{4}.slice(5 * 1024);  // 2 + 2 + 1 + 0 blocks
  CHECK(five_blocks.shard_elements == 2048);
  CHECK(five_blocks.count(0) == 2048);
  CHECK(five_blocks.count(1) == 2048);
  CHECK(five_blocks.count(2) == 1024);
  CHECK(five_blocks.count(3) == 0);

  const Partition ragged = BandwidthPartitioner{2}.slice(3000);
  CHECK(ragged.shard_elements == 2048);
  CHECK(ragged.first(1) == 2048);
  CHECK(ragged.count(1) == 952);
  CHECK(ragged.padded_elements() == 4096);

  const Partition alone = BandwidthPartitioner{1}.slice(1025);
  CHECK(alone.shard_elements == 2048);
  CHECK(alone.count(0) == 1025);
}

TEST_CASE("a partition is known at compile time") {
  constexpr Partition p = BandwidthPartitioner{3}.slice(10'000);
  static_assert(p.shard_elements == 4096 && p.count(2) == 10'000 - 2 * 4096);
  CHECK(p.padded_elements() == 12'288);
}

}  // namespace
