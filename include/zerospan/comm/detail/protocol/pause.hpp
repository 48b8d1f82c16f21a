/// @file
/// Pause: how a thread waits for what nothing wakes it for.
#pragma once

#include <chrono>
#include <thread>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Waits a little, and longer when it has been waiting for long.
class Pause {
 public:
  void operator()() {
    constexpr int yields = 64;
    if (count_ < yields) {
      ++count_;
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds{50});
    }
  }

 private:
  int count_ = 0;
};

}  // namespace zerospan::inline v0::detail
