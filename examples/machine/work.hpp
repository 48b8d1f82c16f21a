/// @file
/// Work that is measured: alone, on every core at once, and beside other work.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <time.h>

#include <zerospan/core/units.hpp>

#include "rates.hpp"

namespace machine {

/// Seconds of a core that the calling thread has had.
inline double thread_seconds() {
  ::timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Memory that is dealt out in turn, and is larger than the caches: what a training works on was not touched just now.
class Pool {
 public:
  explicit Pool(std::size_t bytes) : memory_(bytes / sizeof(float), 0.01F) {}

  /// The next range, which others get again when all of the pool was dealt out.
  template <class E = float>
  E* take(std::size_t elements) {
    const std::size_t floats = zerospan::round_up(elements * sizeof(E), 64) / sizeof(float);
    if (next_ + floats > memory_.size()) next_ = 0;
    E* const range = reinterpret_cast<E*>(memory_.data() + next_);
    next_ += floats;
    return range;
  }

 private:
  std::vector<float> memory_;
  std::size_t next_ = 0;
};

/// What one thread works on.
struct Memory {
  static constexpr std::size_t bytes = std::size_t{80} << 20;

  Pool in{bytes};
  Pool out{bytes};
};

/// A sort of work, at one size.
struct Work {
  std::string name;
  WorkKind kind = WorkKind::elementwise;
  double size = 0;                                     ///< Of one piece.
  std::function<std::function<void()>(Memory&)> make;  ///< Something that does a piece whenever it is called.
};

/// Threads that do work over and over, for as long as the object lives.
class Busy {
 public:
  /// @param memory Of each thread.
  Busy(const Work& work, std::vector<Memory>& memory, std::size_t first, std::size_t threads) {
    for (std::size_t i = first; i < first + threads; ++i) {
      threads_.emplace_back([this, piece = work.make(memory[i])] {
        ++begun_;
        while (!is_over_.load(std::memory_order_relaxed)) {
          piece();
          done_.fetch_add(1, std::memory_order_relaxed);
        }
      });
    }
    while (begun_ < threads) std::this_thread::yield();
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { is_over_ = true; }

  /// Pieces that all threads have done.
  std::size_t done() const { return done_; }

 private:
  std::atomic<bool> is_over_ = false;
  std::atomic<std::size_t> begun_ = 0;
  std::atomic<std::size_t> done_ = 0;
  std::vector<std::jthread> threads_;  // end first
};

/// Measures work on a machine.
class Stopwatch {
 public:
  Stopwatch(int cores, double moment) : cores_{static_cast<std::size_t>(cores)}, moment_{moment}, memory_(cores_) {}

  std::vector<Memory>& memory() { return memory_; }
  std::size_t cores() const { return cores_; }

  /// Units of the work's size a second, on one thread: of the time that it has a core, in the best of some trials.
  /// Whatever else runs on the machine makes it slower alone.
  double alone(const Work& work) {
    const auto piece = work.make(memory_[0]);
    piece();  // what happens once only
    double best = 0;
    for (std::size_t trial = 0; trial < trials; ++trial) {
      const double begin = thread_seconds();
      double times = 0;
      double seconds = 0;
      for (; seconds < moment_; ++times) {
        piece();
        seconds = thread_seconds() - begin;
      }
      best = std::max(best, times / seconds);
    }
    return work.size * best;
  }

  /// The same while every other core does `other`.
  double beside(const Work& work, const Work& other) {
    if (cores_ < 2) return alone(work);
    const Busy busy{other, memory_, 1, cores_ - 1};
    return alone(work);
  }

  /// Pieces of work a second that all cores do together, while `meanwhile()` runs.
  template <class Meanwhile>
  double all_cores(const Work& work, Meanwhile meanwhile) {
    using Clock = std::chrono::steady_clock;
    const Busy busy{work, memory_, 0, cores_};
    const std::size_t done = busy.done();
    const auto begin = Clock::now();
    meanwhile();
    return static_cast<double>(busy.done() - done) / std::chrono::duration<double>(Clock::now() - begin).count();
  }

 private:
  static constexpr std::size_t trials = 4;

  std::size_t cores_;
  double moment_;
  std::vector<Memory> memory_;
};

}  // namespace machine
