/// @file
/// How fast something is, by trial.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <vector>

namespace gpt {

/// How often a second `work` can be done, by trial for a moment.
/// @param moment Seconds.
template <class Work>
double times_a_second(Work work, double moment = 0.05) {
  using Clock = std::chrono::steady_clock;
  work();  // what happens once only
  const auto begin = Clock::now();
  double times = 0;
  double seconds = 0;
  for (; seconds < moment; ++times) {
    work();
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return times / seconds;
}

/// The same, and the median of several trials.
template <class Work>
double median_times_a_second(Work work, std::size_t trials = 5, double moment = 0.05) {
  std::vector<double> rates(trials);
  for (double& rate : rates) rate = times_a_second(work, moment);
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(trials / 2);
  std::ranges::nth_element(rates, middle);
  return *middle;
}

/// What `work` takes where nothing holds it up: the least of some times.
template <class Work>
double least_seconds(Work work, int times = 20) {
  using Clock = std::chrono::steady_clock;
  work();  // what happens once only
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < times; ++i) {
    const auto begin = Clock::now();
    work();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return least;
}

}  // namespace gpt
