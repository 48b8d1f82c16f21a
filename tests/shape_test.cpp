#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>

namespace {

using zerospan::ConfigurationError;
using zerospan::Shape;

TEST_CASE("a shape knows its extents and its elements") {
  const Shape shape{4, 3, 2};
  CHECK(shape.rank() == 3);
  CHECK(shape[0] == 4);
  CHECK(shape[2] == 2);
  CHECK(shape.elements() == 24);
  CHECK(std::vector(shape.extents().begin(), shape.extents().end()) == std::vector<std::size_t>{4, 3, 2});
}

TEST_CASE("a shape without extents is a scalar") {
  const Shape scalar{};
  CHECK(scalar.rank() == 0);
  CHECK(scalar.elements() == 1);
  CHECK(scalar.extents().empty());
}

TEST_CASE("shapes compare by extents, not by elements") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{6} != Shape{6, 1});
  const std::array<std::size_t, 2> extents{2, 3};
  CHECK(Shape{std::span<const std::size_t>{extents}} == Shape{2, 3});
}

TEST_CASE("impossible shapes are refused") {
  CHECK(Shape{1, 1, 1, 1, 1, 1}.rank() == Shape::max_rank);
  CHECK_THROWS_WITH_AS((Shape{1, 1, 1, 1, 1, 1, 1}), "a shape has at most 6 extents, not 7", ConfigurationError);
  CHECK_THROWS_WITH_AS((Shape{4, 0, 2}), "extent 1 of a shape is zero", ConfigurationError);
  constexpr std::size_t half = std::size_t{1} << (std::numeric_limits<std::size_t>::digits / 2);
  CHECK((Shape{half, half - 1}.elements()) == half * (half - 1));
  CHECK_THROWS_WITH_AS((Shape{half, half}), "a shape has more elements than std::size_t counts", ConfigurationError);
}

TEST_CASE("the error says who made the shape") {
  try {
    static_cast<void>(Shape{0});
    FAIL("no error");
  } catch (const ConfigurationError& error) {
    CHECK(error.where().line() > 0);
  }
}

}  // namespace
