/// @file
/// WorkRate: how fast work is, by its size.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace machine {

/// How fast work is at one size.
struct RatePoint {
  double size = 0;        ///< Of one piece of work: bytes or elements.
  double per_second = 0;  ///< As many of them, on one thread, while nothing else runs.
};

/// How fast work is that has a size, between those that were measured.
struct WorkRate {
  std::vector<RatePoint> points;  ///< By size; at least one.

  /// Seconds of one piece of work. Between two sizes the rate changes evenly with the logarithm of the size.
  double seconds(double size) const {
    if (size <= 0) return 0;
    const auto above = std::ranges::lower_bound(points, size, {}, &RatePoint::size);
    if (above == points.begin()) return size / points.front().per_second;
    if (above == points.end()) return size / points.back().per_second;
    const RatePoint& low = *(above - 1);
    const double share = std::log(size / low.size) / std::log(above->size / low.size);
    return size / (low.per_second + share * (above->per_second - low.per_second));
  }
};

}  // namespace machine
