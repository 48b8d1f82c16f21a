/// @file
/// Whether sums and means of figures are what they must be, over any communicator.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/figures.hpp>
#include <zerospan/core/stream.hpp>

namespace zerospan_test {

/// One contributor's figure: of either sign and many magnitudes, so that the order of additions shows.
inline float figure_of(int contributor, std::size_t i) {
  return std::ldexp(static_cast<float>((7 * contributor + 3 * static_cast<int>(i)) % 11 - 5) / 3.0F,
                    (13 * contributor + static_cast<int>(i)) % 50);
}

/// @param contributor The caller. @param order In which the figures of contributors are added.
template <class C, std::size_t Contributors>
bool figures_are_right(C& communicator, int contributor, const std::array<int, Contributors>& order,
                       zerospan::StreamRef stream = zerospan::calling_thread) {
  std::vector<float> sums;
  std::vector<float> expected_sums;
  std::vector<float> expected_means;
  for (std::size_t i = 0; i < 17; ++i) {
    sums.push_back(figure_of(contributor, i));
    double sum = static_cast<double>(figure_of(order[0], i));
    for (std::size_t k = 1; k < Contributors; ++k) sum += static_cast<double>(figure_of(order[k], i));
    expected_sums.push_back(static_cast<float>(sum));
    expected_means.push_back(static_cast<float>(sum / static_cast<double>(Contributors)));
  }
  std::vector<float> means = sums;
  const float first = zerospan::mean(communicator, {stream, "the mean of one"}, means[0]);
  zerospan::all_reduce(communicator, {stream, "sums"}, sums);
  zerospan::mean(communicator, {stream, "means"}, means);
  return sums == expected_sums && means == expected_means && first == means[0];
}

}  // namespace zerospan_test
