/// @file
/// The error of what cannot be drawn.
#pragma once

#include <stdexcept>

namespace drawing {

/// Says what is wrong with it.
class DrawingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace drawing
