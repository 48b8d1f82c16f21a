/// @file
/// SafetensorsPlace: which tensor of a model a parameter is, and how it lies in it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// How the elements of a matrix lie in its tensor.
enum class StoredOrder : std::uint8_t {
  as_it_is,
  transposed,  ///< A parameter of [rows x columns] is a tensor of [columns x rows], as GPT-2's linear layers are.
};

/// Where a parameter rests in a model in the format of others.
struct SafetensorsPlace {
  std::string tensor;
  StoredOrder order = StoredOrder::as_it_is;

  /// Of the tensor's rows, before it is transposed, the first that is this parameter's: where a tensor is several
  /// parameters, such as the tiles of a layer.
  std::uint64_t first_row = 0;

  /// How many the tensor has, the first of its extents; 0: as many as the parameter.
  std::uint64_t rows = 0;
};

}  // namespace zerospan::inline v0
