/// @file
/// IntervalPlan: once a pass is known, where each of its buffers goes and when its prefetch is posted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/trace.hpp>

namespace zerospan::inline v0 {

/// A static plan over a trace. Time is counted in half positions: prefetches that follow k events are posted at 2k + 1,
/// the event at position k happens at 2k + 2. A use occupies its range from its posting (or its acquisition) to its
/// release.
class IntervalPlan {
 public:
  /// "Not posted ahead of its acquisition."
  static constexpr std::size_t on_demand = TraceUse::never;

  struct Slot {
    std::size_t offset;  ///< In working memory.
    std::size_t post;    ///< Events that have happened when it is posted: 0 is before the first. `on_demand`: none.
  };

  /// Uses are placed in the order of their acquisition, each at the earliest posting at
  /// which (1) it is not posted before its predecessors, (2) at most `look_ahead` bytes are posted and not yet
  /// acquired, and (3) a range is free until its release. Where greed leaves a later use without a range, the
  /// look-ahead is halved; without any, the recorded addresses, which are known to fit, are the plan.
  IntervalPlan(const Trace& trace, std::size_t capacity, std::size_t look_ahead) {
    for (std::size_t bytes = look_ahead; bytes > 0; bytes /= 2) {
      if (place_all(trace, capacity, bytes)) return;
    }
    slots_.clear();
    for (const TraceUse& use : trace.uses) slots_.push_back({use.offset, on_demand});
  }

  const Slot& operator[](std::size_t use) const { return slots_[use]; }
  std::size_t size() const noexcept { return slots_.size(); }

 private:
  struct Placed {
    std::size_t begin, end;  // half positions
    std::size_t drained;     // a half position by which what was handed over has probably left
    std::size_t offset, bytes;
  };

  static constexpr std::size_t event_time(std::size_t position) { return 2 * position + 2; }
  static constexpr std::size_t post_time(std::size_t events_before) { return 2 * events_before + 1; }

  bool place_all(const Trace& trace, std::size_t capacity, std::size_t look_ahead) {
    slots_.clear();
    std::vector<Placed> placed;
    std::vector<Placed> waiting;  // posted and not yet acquired
    std::size_t earliest = 0;
    for (const TraceUse& use : trace.uses) {
      const auto is_over = [&](const Placed& p) { return std::max(p.end, p.drained) <= post_time(earliest); };
      std::erase_if(placed, is_over);
      std::erase_if(waiting, is_over);
      std::optional<Slot> slot;
      const std::size_t end = event_time(use.released);
      if (use.kind == UseKind::gathered) {
        for (std::size_t post = earliest; post <= use.acquired && !slot; ++post) {
          const std::size_t begin = post_time(post);
          if (posted_bytes(waiting, begin) + use.bytes > look_ahead) continue;
          if (const auto offset = first_fit(placed, begin, end, use.bytes, capacity)) {
            slot = Slot{*offset, post};
            waiting.push_back({begin, event_time(use.acquired), 0, *offset, use.bytes});
            earliest = post;
          }
        }
      }
      const std::size_t begin = slot ? post_time(slot->post) : event_time(use.acquired);
      if (!slot) {
        const auto offset = first_fit(placed, begin, end, use.bytes, capacity);
        if (offset) slot = Slot{*offset, on_demand};
      }
      if (!slot) return false;
      placed.push_back({begin, end, drained_by(trace, use), slot->offset, use.bytes});
      slots_.push_back(*slot);
    }
    return true;
  }

  /// Bytes posted and not acquired at `time`, given that everything posted so far was posted no later than `time`.
  static std::size_t posted_bytes(std::span<const Placed> waiting, std::size_t time) {
    std::size_t bytes = 0;
    for (const Placed& p : waiting) bytes += p.end > time ? p.bytes : 0;
    return bytes;
  }

  /// A gradient's buffer is read by the reduction after its release. It is left alone until the next gradient has been
  /// released too, where memory allows: gradients are double-buffered.
  static std::size_t drained_by(const Trace& trace, const TraceUse& use) {
    if (use.kind != UseKind::gradient) return event_time(use.released);
    const auto next = std::find_if(trace.uses.begin() + (&use - trace.uses.data()) + 1, trace.uses.end(),
                                   [](const TraceUse& later) { return later.kind == UseKind::gradient; });
    return event_time(next == trace.uses.end() ? use.released : std::max(use.released, next->released));
  }

  /// The lowest offset that is free in [begin, end), preferably one whose former content has drained.
  static std::optional<std::size_t> first_fit(std::span<const Placed> placed, std::size_t begin, std::size_t end,
                                              std::size_t bytes, std::size_t capacity) {
    const auto fit = [&](auto end_of) -> std::optional<std::size_t> {
      std::vector<Placed> overlapping;
      for (const Placed& p : placed) {
        if (p.begin < end && begin < end_of(p)) overlapping.push_back(p);
      }
      std::ranges::sort(overlapping, {}, &Placed::offset);
      std::size_t offset = 0;
      for (const Placed& p : overlapping) {
        if (p.offset >= offset + bytes) break;
        offset = std::max(offset, p.offset + p.bytes);
      }
      return offset + bytes <= capacity ? std::optional{offset} : std::nullopt;
    };
    const auto drained = fit([](const Placed& p) { return p.drained; });
    return drained ? drained : fit([](const Placed& p) { return p.end; });
  }

  std::vector<Slot> slots_;
};

}  // namespace zerospan::inline v0
