/// @file
/// Worlds of ranks that are threads, for the suites of all communicators.
#pragma once

#include <array>
#include <utility>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>

namespace zerospan_test {

inline constexpr auto threads_themselves = [](zerospan::ThreadCommunicator threads) { return threads; };

/// A world in which each rank gets `make(ThreadCommunicator)`.
template <auto make = threads_themselves>
struct ThreadWorld {
  template <class F>
  auto run(F f) const {
    return zerospan::run_ranks(size,
                               [&f](zerospan::ThreadCommunicator threads) { return f(make(std::move(threads))); });
  }

  int size;
};

/// One of each size.
template <auto make, int... sizes>
struct ThreadWorlds {
  static constexpr std::array<ThreadWorld<make>, sizeof...(sizes)> all() { return {ThreadWorld<make>{sizes}...}; }
};

}  // namespace zerospan_test
