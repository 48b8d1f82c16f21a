/// @file
/// Worlds of ranks that are threads, for the suites of all communicators.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>

namespace zerospan_test {

/// Each rank gets `make(ThreadCommunicator)`.
template <int Size, auto make = [](zerospan::ThreadCommunicator threads) { return threads; }>
struct ThreadWorld {
  static constexpr int size = Size;
  template <class F>
  static auto run(F f) {
    return zerospan::run_ranks(
        Size, [&f](zerospan::ThreadCommunicator threads) { return f(make(std::move(threads))); });
  }
};

}  // namespace zerospan_test
