/// @file
/// How fast something is, by trial.
#pragma once

#include <chrono>

namespace gpt {

/// How often a second `work` can be done, by trial for a moment.
template <class Work>
double times_a_second(Work work) {
  using Clock = std::chrono::steady_clock;
  constexpr double moment = 0.05;
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

}  // namespace gpt
