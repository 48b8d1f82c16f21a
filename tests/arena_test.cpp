#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::Allocation;
using zerospan::Arena;
using zerospan::Bytes;

constexpr std::size_t page = Arena::alignment;

static_assert(!std::is_copy_constructible_v<Allocation> && std::is_nothrow_move_assignable_v<Allocation>);

std::shared_ptr<std::byte> storage_of(std::size_t bytes) {
  return {static_cast<std::byte*>(std::aligned_alloc(page, zerospan::round_up(bytes, page))), std::free};
}

struct Fixture {
  explicit Fixture(std::size_t pages)
      : storage{storage_of(pages * page)}, arena{"device memory", storage, Bytes{pages * page}} {}

  std::size_t offset(const Allocation& allocation) const {
    return static_cast<std::size_t>(allocation.data() - storage.get());
  }

  std::shared_ptr<std::byte> storage;
  Arena arena;
};

TEST_CASE("allocations are first-fit by address") {
  Fixture f{10};
  auto a = f.arena.allocate(Bytes{2 * page}, "a");
  auto b = f.arena.allocate(Bytes{1 * page}, "b");
  auto c = f.arena.allocate(Bytes{3 * page}, "c");
  auto d = f.arena.allocate(Bytes{1 * page}, "d");
  CHECK(f.offset(a) == 0);
  CHECK(f.offset(b) == 2 * page);
  CHECK(f.offset(c) == 3 * page);
  CHECK(f.offset(d) == 6 * page);
  a = {};
  c = {};
  const auto e = f.arena.allocate(Bytes{3 * page}, "e");  // does not fit the first gap
  CHECK(f.offset(e) == 3 * page);
  const auto g = f.arena.allocate(Bytes{1 * page}, "g");  // the first gap, not the tightest
  CHECK(f.offset(g) == 0);
  const auto h = f.arena.allocate(Bytes{1 * page}, "h");
  CHECK(f.offset(h) == 1 * page);
}

TEST_CASE("neighbouring gaps become one") {
  Fixture f{6};
  auto a = f.arena.allocate(Bytes{2 * page}, "a");
  auto b = f.arena.allocate(Bytes{2 * page}, "b");
  const auto c = f.arena.allocate(Bytes{2 * page}, "c");
  CHECK(f.arena.largest_free() == 0);
  b = {};
  CHECK(f.arena.largest_free() == 2 * page);
  a = {};
  CHECK(f.arena.largest_free() == 4 * page);
  CHECK(f.offset(f.arena.allocate(Bytes{4 * page}, "d")) == 0);
}

TEST_CASE("allocations are aligned and counted by their own bytes") {
  Fixture f{4};
  const auto a = f.arena.allocate(Bytes{100}, "a");
  const auto b = f.arena.allocate(Bytes{page + 1}, "b");
  CHECK(a.bytes() == 100);
  CHECK(f.offset(b) == page);
  CHECK(f.arena.used() == Bytes{page + 101});
  CHECK(f.arena.largest_free() == page);
  const auto c = f.arena.allocate(Bytes{page}, "c");
  CHECK(f.offset(c) == 3 * page);
}

TEST_CASE("what does not fit is refused with the bytes short, and changes nothing") {
  Fixture f{4};
  const auto a = f.arena.allocate(Bytes{3 * page}, "a");
  try {
    static_cast<void>(f.arena.allocate(Bytes{3 * page}, "the gather of blocks.0.mlp.up"));
    FAIL("no error");
  } catch (const zerospan::BudgetError& error) {
    CHECK(error.requested() == Bytes{3 * page});
    CHECK(error.available() == Bytes{page});
    CHECK(error.short_by() == Bytes{2 * page});
    CHECK(std::string{error.what()} ==
          "the gather of blocks.0.mlp.up in device memory needs 12288 bytes, 4096 are left: 8192 bytes short; "
          "raise its budget");
  }
  CHECK(f.arena.used() == Bytes{3 * page});
  CHECK(f.arena.peak() == Bytes{3 * page});
  CHECK(f.arena.largest_free() == page);
}

TEST_CASE("the peak is the most that was used at once") {
  Fixture f{8};
  CHECK(f.arena.capacity() == 32_KiB);
  auto a = f.arena.allocate(Bytes{3 * page}, "a");
  { const auto b = f.arena.allocate(Bytes{2 * page}, "b"); }
  a = f.arena.allocate(Bytes{1 * page}, "c");  // taken before the old one is given back
  CHECK(f.arena.used() == Bytes{page});
  CHECK(f.arena.peak() == Bytes{5 * page});
  a = {};
  CHECK(f.arena.used() == Bytes{0});
  CHECK(f.arena.peak() == Bytes{5 * page});
}

TEST_CASE("nothing takes nothing") {
  Fixture f{2};
  auto none = f.arena.allocate(Bytes{0}, "nothing");
  CHECK(none.bytes() == 0);
  const auto a = f.arena.allocate(Bytes{page}, "a");
  const auto also_none = f.arena.allocate(Bytes{0}, "nothing");
  const auto b = f.arena.allocate(Bytes{page}, "b");
  CHECK(f.offset(a) == 0);
  CHECK(f.offset(b) == page);
  none = {};
  CHECK(f.arena.largest_free() == 0);  // giving nothing back frees nothing
  CHECK(f.arena.allocate(Bytes{0}, "nothing").bytes() == 0);
}

TEST_CASE("an allocation outlives its arena") {
  std::weak_ptr<std::byte> storage;
  Allocation allocation;
  {
    Fixture f{2};
    storage = f.storage;
    allocation = f.arena.allocate(Bytes{2 * page}, "a");
  }
  REQUIRE_FALSE(storage.expired());
  allocation.data()[2 * page - 1] = std::byte{1};
  allocation = {};
  CHECK(storage.expired());
}

TEST_CASE("moving an allocation moves the range") {
  Fixture f{4};
  auto a = f.arena.allocate(Bytes{page}, "a");
  const std::byte* const address = a.data();
  Allocation b{std::move(a)};
  CHECK(b.data() == address);
  CHECK(f.arena.used() == Bytes{page});
  auto c = f.arena.allocate(Bytes{2 * page}, "c");
  c = std::move(b);  // gives the two pages back
  CHECK(c.data() == address);
  CHECK(f.arena.used() == Bytes{page});
  CHECK(f.arena.largest_free() == 3 * page);
}

TEST_CASE("working memory is the largest gap, or a part of it") {
  Fixture f{10};
  auto a = f.arena.allocate(Bytes{2 * page}, "a");
  const auto b = f.arena.allocate(Bytes{1 * page}, "b");
  a = {};
  const auto limited = f.arena.allocate_working(Bytes{4 * page});
  CHECK(limited.bytes() == 4 * page);
  CHECK(f.offset(limited) == 3 * page);  // the first gap is too small
  const auto rest = f.arena.allocate_working(Bytes{100 * page});
  CHECK(rest.bytes() == 3 * page);
  CHECK(f.offset(rest) == 7 * page);
  CHECK(f.arena.allocate_working(Bytes{100 * page}).bytes() == 2 * page);
  CHECK(f.arena.allocate_working(Bytes{0}).bytes() == 0);
}

TEST_CASE("working memory counts as far as its owner says") {
  Fixture f{10};
  {
    auto working = f.arena.allocate_working(Bytes{8 * page});
    CHECK(f.arena.used() == Bytes{0});
    working.charge(Bytes{5 * page});
    CHECK(f.arena.used() == Bytes{5 * page});
    working.discharge(Bytes{2 * page});
    CHECK(f.arena.used() == Bytes{3 * page});
    CHECK_THROWS_AS(f.arena.allocate(Bytes{3 * page}, "a"), zerospan::BudgetError);  // the range itself is taken
  }
  CHECK(f.arena.used() == Bytes{0});
  CHECK(f.arena.peak() == Bytes{5 * page});
  CHECK(f.arena.largest_free() == 10 * page);
}

TEST_CASE("an arena without free memory has no working memory") {
  Fixture f{1};
  const auto all = f.arena.allocate(Bytes{page}, "all");
  const auto none = f.arena.allocate_working(Bytes{page});
  CHECK(none.bytes() == 0);
  CHECK(none.data() == nullptr);
}

}  // namespace
