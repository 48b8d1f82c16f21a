/// @file
/// FormerUses: what the next user of a range of memory must wait for.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Remembers, for ranges that were given back in program order, the completions of their last uses.
class FormerUses {
 public:
  void record(std::size_t offset, std::size_t bytes, Completion last_use) {
    past_.push_back({offset, offset + bytes, std::move(last_use)});
  }

  /// Forgets the uses of [offset, offset + bytes), which is taken again. @return What its first use waits for.
  std::vector<Completion> overwrite(std::size_t offset, std::size_t bytes) {
    const std::size_t end = offset + bytes;
    std::vector<Completion> after;
    std::vector<Past> remaining;
    for (Past& past : past_) {
      if (past.completion.done() && !past.completion.error()) continue;
      if (past.end <= offset || past.begin >= end) {
        remaining.push_back(std::move(past));
        continue;
      }
      after.push_back(past.completion);
      if (past.begin < offset) remaining.push_back({past.begin, offset, past.completion});
      if (past.end > end) remaining.push_back({end, past.end, past.completion});
    }
    past_ = std::move(remaining);
    return after;
  }

 private:
  struct Past {
    std::size_t begin;
    std::size_t end;
    Completion completion;
  };

  std::vector<Past> past_;
};

}  // namespace zerospan::inline v0::detail
