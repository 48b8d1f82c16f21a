/// @file
/// How a matrix of outputs x inputs is cut into tiles, and how a tile is born with the matrix's values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>

namespace zerospan::inline v0 {

/// `count` indices from `first` on.
struct IndexRange {
  std::size_t first = 0;
  std::size_t count = 0;

  constexpr std::size_t end() const noexcept { return first + count; }
  friend bool operator==(const IndexRange&, const IndexRange&) = default;
};

/// The extents of a linear layer's weight, [outputs x inputs].
struct LinearExtents {
  std::size_t outputs = 1;
  std::size_t inputs = 1;
};

/// Into how many tiles the outputs and the inputs of a linear layer are cut.
struct TileCounts {
  std::size_t outputs = 1;
  std::size_t inputs = 1;
};

/// Which part of the matrix a tile is, and in use: what its product does with what is there.
struct Tile {
  IndexRange outputs;
  IndexRange inputs;
  bool accumulates = false;  ///< It is added to what is there; else it replaces that.

  constexpr Tile accumulating(bool is_added) const noexcept { return {outputs, inputs, is_added}; }
  friend bool operator==(const Tile&, const Tile&) = default;
};

/// A grid of tiles, as even as possible: their extents differ by one at most, the larger ones come first.
class TileGrid {
 public:
  /// @param name Names the layer in errors.
  /// @throws ConfigurationError for no tiles, or more than there are outputs or inputs.
  TileGrid(const std::string& name, LinearExtents extents, TileCounts counts)
      : whole_{extents.outputs, extents.inputs}, counts_{counts} {
    check(name, "outputs", extents.outputs, counts.outputs);
    check(name, "inputs", extents.inputs, counts.inputs);
  }

  TileCounts counts() const noexcept { return counts_; }

  Tile tile(std::size_t row, std::size_t column) const noexcept {
    return {cut(whole_[0], counts_.outputs, row), cut(whole_[1], counts_.inputs, column)};
  }

  /// "[row,column]", or nothing where one tile is the whole.
  std::string suffix(std::size_t row, std::size_t column) const {
    if (counts_.outputs * counts_.inputs == 1) return {};
    return std::string{"["}.append(std::to_string(row)).append(",").append(std::to_string(column)).append("]");
  }

 private:
  static void check(const std::string& name, const char* what, std::size_t extent, std::size_t count) {
    if (count > 0 && count <= extent) return;
    throw_configuration_error("the " + std::to_string(extent) + " " + what + " of " + name + " cannot be cut into " +
                              std::to_string(count) + " tiles");
  }

  static constexpr IndexRange cut(std::size_t extent, std::size_t parts, std::size_t part) noexcept {
    const std::size_t count = extent / parts;
    const std::size_t larger = extent % parts;
    return {part * count + std::min(part, larger), count + (part < larger ? 1 : 0)};
  }

  Shape whole_;
  TileCounts counts_;
};

/// Gives each element of a tile the value that `whole` gives it in the whole matrix: initial values do not depend on
/// the tiling.
/// @param stream The random stream of the whole matrix.
/// @param columns Of the whole matrix.
inline Initializer tile_initializer(Initializer whole, std::uint64_t stream, std::size_t columns, const Tile& tile) {
  return detail::PartOfMatrix{std::move(whole),  stream,           columns, tile.outputs.first,
                              tile.inputs.first, tile.inputs.count};
}

}  // namespace zerospan::inline v0
