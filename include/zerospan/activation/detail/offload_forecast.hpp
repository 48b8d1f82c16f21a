/// @file
/// OffloadForecast: the last pass tells which checkpoints of the next will have to leave device memory.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Counts the checkpoints of a pass as they are committed.
class OffloadForecast {
 public:
  /// The ordinal of the next checkpoint of the pass.
  std::size_t next() noexcept { return committed_++; }

  /// Takes note of one that has left.
  void left(std::size_t ordinal) {
    if (ordinal >= left_.size()) left_.resize(ordinal + 1);
    left_[ordinal] = true;
  }

  /// Whether the one of this ordinal left in the last pass.
  bool expects(std::size_t ordinal) const { return ordinal < expected_.size() && expected_[ordinal]; }

  /// Nothing is on the stack, and nothing is leased.
  void end_pass() {
    if (committed_ == 0) return;
    committed_ = 0;
    expected_ = std::exchange(left_, {});
  }

 private:
  std::size_t committed_ = 0;
  std::vector<bool> left_;
  std::vector<bool> expected_;
};

}  // namespace zerospan::inline v0::detail
