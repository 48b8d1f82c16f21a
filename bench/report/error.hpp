/// @file
/// The error of figures that make no table and no picture.
#pragma once

#include <stdexcept>

namespace bench {

/// Says which figure, and what is wrong with it.
class ReportError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace bench
