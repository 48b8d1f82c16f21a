/// @file
/// What may stay in working memory of a small trace, by trying every choice, and small traces at random.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan_test {

using zerospan::detail::Residency;
using zerospan::detail::Trace;
using zerospan::detail::TraceEvent;
using zerospan::detail::TraceUse;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;

/// What may stay of a trace, by trying every choice.
class EveryResidency {
 public:
  EveryResidency(const Trace& trace, std::size_t memory) : memory_{memory} {
    std::map<UseKey, std::size_t> last;
    std::size_t taken = 0;
    std::size_t draining = 0;
    for (const TraceEvent& event : trace.events) {
      const TraceUse& use = trace.uses[event.use];
      const bool is_gradient = use.key.kind == UseKind::gradient;
      if (event.kind == TraceEvent::Kind::release) {
        taken -= is_gradient ? std::exchange(draining, use.bytes) : use.bytes;
        continue;
      }
      taken_.push_back(taken += use.bytes);
      if (is_gradient) continue;
      gathered_ += use.bytes;
      const auto [former, is_first] = last.try_emplace(use.key, event.use);
      if (!is_first) gaps_.push_back({std::exchange(former->second, event.use), event.use, use.bytes});
    }
    try_from(0, 0);
  }

  /// Bytes that are gathered at least.
  std::size_t fewest() const { return gathered_ - most_kept_; }

  /// Bytes that are gathered if nothing stays.
  std::size_t gathered() const { return gathered_; }

 private:
  /// Between two uses of a key, of which the first has ended before any other begins.
  struct Gap {
    std::size_t from, to;
    std::size_t bytes;
  };

  void try_from(std::size_t gap, std::size_t kept) {
    most_kept_ = std::max(most_kept_, kept);
    if (gap == gaps_.size()) return;
    try_from(gap + 1, kept);
    const auto [from, to, bytes] = gaps_[gap];
    const auto first = taken_.begin() + static_cast<std::ptrdiff_t>(from) + 1;
    const auto end = taken_.begin() + static_cast<std::ptrdiff_t>(to);
    if (std::any_of(first, end, [&](std::size_t taken) { return taken + bytes > memory_; })) return;
    std::for_each(first, end, [bytes = bytes](std::size_t& taken) { taken += bytes; });
    try_from(gap + 1, kept + bytes);
    std::for_each(first, end, [bytes = bytes](std::size_t& taken) { taken -= bytes; });
  }

  std::size_t memory_;
  std::vector<std::size_t> taken_;  ///< At each acquisition.
  std::vector<Gap> gaps_;
  std::size_t gathered_ = 0;
  std::size_t most_kept_ = 0;
};

inline std::size_t gathered_by_residency(const Trace& trace, std::size_t memory) {
  const Residency residency{trace, memory};
  std::size_t bytes = 0;
  for (const TraceUse& use : trace.uses) bytes += use.key.kind == UseKind::gathered ? use.bytes : 0;
  for (std::size_t u = 0; u < trace.uses.size(); ++u)
    bytes -= residency.kept_for(u) != TraceUse::never ? trace.uses[u].bytes : 0;
  return bytes;
}

/// A small cycle of passes, and memory for a part of it.
class RandomCycle {
 public:
  /// @param largest The sizes of buffers are from 1 to this.
  RandomCycle(std::uint32_t seed, std::size_t largest) : random_{seed}, bytes_(2 + below(4)) {
    for (std::size_t& bytes : bytes_) bytes = 1 + below(largest);
    below(2) == 0 ? go_around() : go_there_and_back();
    const std::size_t all = std::accumulate(bytes_.begin(), bytes_.end(), std::size_t{0});
    memory = std::ranges::max(bytes_) + below(2 * all);
  }

  Trace trace;
  std::size_t memory = 0;

 private:
  std::size_t below(std::size_t bound) { return random_() % bound; }

  void use(UseKind kind, std::size_t layer) {
    trace.release(trace.acquire(UseKey{kind, static_cast<std::uint32_t>(layer)}, bytes_[layer], 0));
  }

  /// Some layers in any order, some of them several times, and again.
  void go_around() {
    std::vector<std::size_t> cycle(bytes_.size() + below(4));
    for (std::size_t& layer : cycle) layer = below(bytes_.size());
    const std::size_t uses = 8 + below(8);
    for (std::size_t i = 0; i < uses; ++i) use(UseKind::gathered, cycle[i % cycle.size()]);
  }

  /// Forward and backward with gradients, in two micro-batches.
  void go_there_and_back() {
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
      for (std::size_t layer = 0; layer < bytes_.size(); ++layer) use(UseKind::gathered, layer);
      for (std::size_t layer = bytes_.size(); layer-- > 0;) {
        use(UseKind::gradient, layer);
        use(UseKind::gathered, layer);
      }
    }
  }

  std::mt19937 random_;
  std::vector<std::size_t> bytes_;  ///< Of each layer.
};

}  // namespace zerospan_test
