/// @file
/// How far what is foretold is off, and the middle of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace paper {

inline double error_of(double foretold, double measured) { return foretold / measured - 1; }

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Errors of one way to foretell.
struct Errors {
  std::vector<double> all;
  void add(double error) { all.push_back(std::abs(error)); }
  double middle() const { return median(all); }
  double worst() const { return std::ranges::max(all); }
};

}  // namespace paper
