#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/tiling/tile_grid.hpp>

namespace {

using zerospan::ConfigurationError;
using zerospan::IndexRange;
using zerospan::Tile;
using zerospan::TileGrid;

TEST_CASE("tiles cover the matrix once, as evenly as possible, the larger ones first") {
  for (const std::size_t outputs : {1U, 7U, 12U}) {
    for (const std::size_t inputs : {1U, 5U, 8U}) {
      for (std::size_t rows = 1; rows <= outputs; ++rows) {
        for (std::size_t columns = 1; columns <= inputs; ++columns) {
          const TileGrid grid{"w", {.outputs = outputs, .inputs = inputs}, {.outputs = rows, .inputs = columns}};
          std::vector<int> covered(outputs * inputs);
          for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < columns; ++j) {
              const Tile tile = grid.tile(i, j);
              REQUIRE(tile.outputs.count == (outputs + rows - 1 - i) / rows);
              REQUIRE(tile.inputs.count == (inputs + columns - 1 - j) / columns);
              for (std::size_t r = tile.outputs.first; r < tile.outputs.end(); ++r) {
                for (std::size_t c = tile.inputs.first; c < tile.inputs.end(); ++c) ++covered[r * inputs + c];
              }
            }
          }
          REQUIRE(std::ranges::all_of(covered, [](int times) { return times == 1; }));
        }
      }
    }
  }
}

TEST_CASE("one tile has no suffix") {
  CHECK(TileGrid("w", {.outputs = 8, .inputs = 8}, {}).suffix(0, 0).empty());
  CHECK(TileGrid("w", {.outputs = 8, .inputs = 8}, {.outputs = 1, .inputs = 2}).suffix(0, 1) == "[0,1]");
  CHECK(TileGrid("w", {.outputs = 8, .inputs = 8}, {.outputs = 2, .inputs = 1}).suffix(1, 0) == "[1,0]");
}

TEST_CASE("more tiles than there are outputs or inputs are refused, and none") {
  CHECK_THROWS_WITH_AS((TileGrid{"up", {.outputs = 4, .inputs = 8}, {.outputs = 5, .inputs = 1}}),
                       "the 4 outputs of up cannot be cut into 5 tiles", ConfigurationError);
  CHECK_THROWS_WITH_AS((TileGrid{"up", {.outputs = 4, .inputs = 8}, {.outputs = 4, .inputs = 9}}),
                       "the 8 inputs of up cannot be cut into 9 tiles", ConfigurationError);
  CHECK_THROWS_AS((TileGrid{"up", {.outputs = 4, .inputs = 8}, {.outputs = 0, .inputs = 1}}), ConfigurationError);
  CHECK_THROWS_AS((TileGrid{"up", {.outputs = 4, .inputs = 0}, {.outputs = 1, .inputs = 1}}), ConfigurationError);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  CHECK_THROWS_AS((TileGrid{"up", {.outputs = most, .inputs = 2}, {}}), ConfigurationError);
}

TEST_CASE("an element of a tile is born with its value in the whole matrix, however the tile is asked") {
  constexpr std::size_t rows = 6;
  constexpr std::size_t columns = 7;
  const zerospan::Initializer normal = zerospan::init::normal(1);
  std::vector<float> whole(rows * columns);
  normal({.seed = 3, .stream = 77}, 0, whole);
  const Tile tile{.outputs = {2, 3}, .inputs = {3, 4}};
  const zerospan::Initializer of_tile = zerospan::tile_initializer(normal, 77, columns, tile);
  for (std::size_t first = 0; first < 12; ++first) {
    for (std::size_t count = 1; first + count <= 12; ++count) {
      std::vector<float> values(count);
      of_tile({.seed = 3, .stream = 5}, first, values);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t row = 2 + (first + i) / 4;
        const std::size_t column = 3 + (first + i) % 4;
        REQUIRE(values[i] == whole[row * columns + column]);
      }
    }
  }
}

}  // namespace
