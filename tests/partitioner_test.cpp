#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/partitioner.hpp>

namespace {

using zerospan::AnyPartitioner;
using zerospan::block_elements;
using zerospan::ConfigurationError;
using zerospan::Owners;
using zerospan::Partition;
using zerospan::Rank;
using zerospan::Slices;

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
      f(Partition::sliced(elements, shards), shards, elements);
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
  const Partition scalar = Partition::sliced(1, 4);
  CHECK(scalar.shard_elements == 1024);
  CHECK(scalar.padded_elements() == 4096);
  CHECK(scalar.count(0) == 1);
  CHECK(scalar.count(1) == 0);
  CHECK(scalar.count(3) == 0);

  const Partition five_blocks = Slices{}.make(4).cut("w", 5 * 1024);  // 2 + 2 + 1 + 0 blocks
  CHECK(five_blocks.shard_elements == 2048);
  CHECK(five_blocks.count(0) == 2048);
  CHECK(five_blocks.count(1) == 2048);
  CHECK(five_blocks.count(2) == 1024);
  CHECK(five_blocks.count(3) == 0);

  const Partition ragged = Slices{}.make(2).cut("w", 3000);
  CHECK(ragged.shard_elements == 2048);
  CHECK(ragged.first(1) == 2048);
  CHECK(ragged.count(1) == 952);
  CHECK(ragged.padded_elements() == 4096);

  const Partition alone = Slices{}.make(1).cut("w", 1025);
  CHECK(alone.shard_elements == 2048);
  CHECK(alone.count(0) == 1025);
}

TEST_CASE("what would be padding for the most part in slices is whole with one rank, in turn") {
  auto cutter = Slices{}.make(512);
  for (int rank = 0; rank < 4; ++rank) {
    const Partition scalar = cutter.cut("scale", 1);
    CHECK(scalar.owner == Rank{rank});
    CHECK(scalar.padded_elements() == 1024);
  }
  CHECK(cutter.cut("bias", 200 * 1024).owner == Rank{4});
  CHECK_FALSE(cutter.cut("weight", 300 * 1024).owner.has_value());
  CHECK_FALSE(Slices{}.make(1).cut("scale", 1).owner.has_value());
}

TEST_CASE("a partition is known at compile time") {
  constexpr Partition p = Partition::sliced(10'000, 3);
  static_assert(p.shard_elements == 4096 && p.count(2) == 10'000 - 2 * 4096);
  CHECK(p.padded_elements() == 12'288);
}

TEST_CASE("an owned parameter is one shard, padded to whole blocks") {
  constexpr Partition one = Partition::owned(1025, Rank{3});
  CHECK(one.elements == 1025);
  CHECK(one.shards == 1);
  CHECK(one.shard_elements == 2048);
  CHECK(one.padded_elements() == 2048);
  CHECK(one.owner == Rank{3});
  CHECK_FALSE(Partition::sliced(1025, 4).owner.has_value());
}

TEST_CASE("each parameter goes to the rank with the fewest elements, the lowest of several") {
  auto cutter = Owners{}.make(3);
  std::vector<int> owners;
  for (const std::size_t elements : std::vector<std::size_t>{5000, 1000, 1000, 2000, 1, 1000, 3000}) {
    owners.push_back(cutter.cut("w", elements).owner->value);
  }
  // Loads in blocks:  5 0 0, 5 1 0, 5 1 1, 5 3 1, 5 3 2, 5 3 3, 5 6 3
  CHECK(owners == std::vector{0, 1, 2, 1, 2, 2, 1});
}

TEST_CASE("no rank owns more than the fewest and one parameter") {
  constexpr std::size_t ranks = 7;
  auto cutter = Owners{}.make(ranks);
  std::vector<std::size_t> loads(ranks);
  std::size_t largest = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    const Partition p = cutter.cut("w", 1 + i * 7919 % 50'000);
    loads[static_cast<std::size_t>(p.owner->value)] += p.shard_elements;
    largest = std::max(largest, p.shard_elements);
    const auto [least, most] = std::ranges::minmax(loads);
    CHECK(most <= least + largest);
  }
}

/// Gives every parameter the same answer.
struct Answers {
  struct Cutter {
    Partition answer;
    Partition cut(std::string_view, std::size_t) const { return answer; }
  };

  Partition answer;

  std::string_view name() const { return "answers"; }
  std::uint64_t fingerprint() const { return answer.elements; }
  Cutter make(std::size_t) const { return {answer}; }
};

struct Nameless {
  Slices::Cutter make(std::size_t ranks) const { return Slices{}.make(ranks); }
};

struct CutsNothing {
  std::string_view name() const;
  int make(std::size_t) const;
};

struct MoveOnly : Slices {
  MoveOnly(MoveOnly&&) = default;
  MoveOnly& operator=(MoveOnly&&) = default;
};

static_assert(zerospan::Partitioner<Answers> && zerospan::Partitioner<AnyPartitioner>);
static_assert(zerospan::PartitionCutter<AnyPartitioner::Cutter>);
static_assert(!zerospan::Partitioner<Nameless> && !zerospan::Partitioner<CutsNothing>);
static_assert(!zerospan::Partitioner<MoveOnly> && !zerospan::Partitioner<Partition>);
static_assert(!std::convertible_to<Nameless, AnyPartitioner>);

TEST_CASE("any partitioner cuts as the one that it was made of, each cutter from the start") {
  const AnyPartitioner any = Owners{};
  const AnyPartitioner copy = any;
  for (int engine = 0; engine < 2; ++engine) {
    auto cutter = copy.make(2);
    CHECK(cutter.cut("a", 5000) == Partition::owned(5000, Rank{0}));
    CHECK(cutter.cut("b", 1) == Partition::owned(1, Rank{1}));
    CHECK(cutter.cut("c", 1) == Partition::owned(1, Rank{1}));
  }
  CHECK(any.name() == "owners");
  CHECK(any.is<Owners>());
  CHECK_FALSE(any.is<Slices>());
}

TEST_CASE("partitioners that differ in name or settings have other fingerprints") {
  const AnyPartitioner one = Answers{Partition::sliced(1, 2)};
  CHECK(one.fingerprint() == AnyPartitioner{Answers{Partition::sliced(1, 2)}}.fingerprint());
  CHECK(one.fingerprint() != AnyPartitioner{Answers{Partition::sliced(2, 2)}}.fingerprint());
  CHECK(AnyPartitioner{Slices{}}.fingerprint() != AnyPartitioner{Owners{}}.fingerprint());
}

TEST_CASE("one rank owns nothing: it has every shard anyway") {
  CHECK(AnyPartitioner{Owners{}}.make(1).cut("w", 3000) == Partition::sliced(3000, 1));
}

TEST_CASE("a partition that no engine can hold is refused") {
  const auto refuses = [](const Partition& answer, const char* why) {
    CAPTURE(why);
    auto cutter = AnyPartitioner{Answers{answer}}.make(3);
    CHECK_THROWS_WITH_AS(cutter.cut("w", 5000), doctest::Contains(why), ConfigurationError);
  };
  refuses({4999, 3, 2048, {}}, "the partitioner answers cut parameter w wrongly: it has 5000 elements, not 4999");
  refuses({5000, 1, 5120, Rank{3}}, "there is no rank 3 among 3");
  refuses({5000, 1, 5120, Rank{-1}}, "there is no rank -1 among 3");
  refuses({5000, 3, 2048, Rank{0}}, "an owner holds one shard, not 3");
  refuses({5000, 1, 5120, {}}, "3 ranks hold a shard each, there are 1 shards");
  refuses({5000, 0, 5120, {}}, "3 ranks hold a shard each, there are 0 shards");
  refuses({5000, 3, 2000, {}}, "shards are whole blocks of 1024, not 2000");
  refuses({5000, 3, 1024, {}}, "shards of 1024 elements do not hold it, 2048 would");
  refuses({5000, 1, 4096, Rank{1}}, "shards of 4096 elements do not hold it, 5120 would");
  refuses({5000, 3, std::size_t{1} << 63, {}}, "more elements than any memory");
  CHECK(AnyPartitioner{Answers{{5000, 3, 4096, {}}}}.make(3).cut("w", 5000).padded_elements() == 3 * 4096);
}

}  // namespace
