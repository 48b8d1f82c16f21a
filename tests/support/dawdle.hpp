/// @file
/// Delays without sleeping: threads that give way to others, some of the times and some of them long.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include <zerospan/io/io_engine.hpp>

#include "toy_model.hpp"

namespace zerospan_test {

/// How long, is drawn from a seed and from how often it was called before. Copies count together. Thread-safe.
class Dawdle {
 public:
  /// @param most Times that a call gives way at the most; 0: never.
  Dawdle(std::uint64_t seed, std::uint64_t most)
      : seed_{seed}, most_{most}, calls_{std::make_shared<std::atomic<std::uint64_t>>(0)} {}

  /// Three of four calls do not wait.
  void operator()() const {
    if (most_ == 0) return;
    const std::uint64_t drawn = mix(seed_ + calls_->fetch_add(1, std::memory_order_relaxed));
    if (drawn % 4 != 0) return;
    for (std::uint64_t left = drawn / 4 % most_ + 1; left > 0; --left) std::this_thread::yield();
  }

 private:
  /// SplitMix64.
  static constexpr std::uint64_t mix(std::uint64_t x) noexcept {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }

  std::uint64_t seed_;
  std::uint64_t most_;
  std::shared_ptr<std::atomic<std::uint64_t>> calls_;
};

/// Passes requests on to another engine, which outlives it: some late, and some of their ends late, so that requests
/// overtake one another.
template <zerospan::IoEngine E>
class DawdlingIoEngine {
 public:
  DawdlingIoEngine(E& inner, Dawdle dawdle) : inner_{&inner}, dawdle_{std::move(dawdle)} {}

  void submit(const zerospan::IoRequest& request, zerospan::IoCallback callback) {
    dawdle_();
    inner_->submit(request, [dawdle = dawdle_, callback = std::move(callback)](std::int64_t result) {
      dawdle();
      callback(result);
    });
  }
  std::size_t queue_depth() const { return inner_->queue_depth(); }
  std::string_view name() const { return "dawdling"; }

 private:
  E* inner_;
  Dawdle dawdle_;
};

/// Computes on the calling thread, some of the times late, so that ranks meet in every order.
class DawdlingCompute : public ThreadCompute {
 public:
  explicit DawdlingCompute(Dawdle dawdle) : dawdle_{std::move(dawdle)} {}

  void run(std::function<void()> f) const override {
    dawdle_();
    f();
  }

 private:
  Dawdle dawdle_;
};

}  // namespace zerospan_test
