/// @file
/// IntervalPlan: once a pass is known, where each of its buffers goes and when its prefetch is posted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/address_ranges.hpp>
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
  /// acquired, (3) a range is free until its release, and (4) the buffers then in use leave as much room in one piece
  /// as without any look-ahead, up to what is needed: a pass that goes on in another way finds its room. Where greed
  /// leaves a later use without a range, the look-ahead is halved; without any, the recorded addresses, which are known
  /// to fit, are the plan.
  /// @param shared The places of the first uses in the plans of paths that begin alike; the recording has them too.
  /// @param needed What other paths need.
  IntervalPlan(const Trace& trace, std::size_t capacity, std::size_t look_ahead, std::span<const Slot> shared = {},
               std::size_t needed = 0) {
    Terms terms{trace, capacity, shared, stacked(trace), 0};
    needed_ = terms.tops.empty() ? 0 : std::ranges::max(terms.tops);
    terms.room = std::min(capacity, std::max(needed, needed_));
    for (std::size_t bytes = look_ahead; bytes > 0; bytes /= 2) {
      if (place_all(terms, bytes)) return;
    }
    slots_.clear();
    for (const TraceUse& use : trace.uses) slots_.push_back({use.offset, on_demand});
  }

  const Slot& operator[](std::size_t use) const { return slots_[use]; }
  std::size_t size() const noexcept { return slots_.size(); }

  /// The places of the first `count` uses.
  std::span<const Slot> first(std::size_t count) const { return std::span{slots_}.first(count); }

  /// Bytes of memory that the trace needs without any look-ahead.
  std::size_t needed() const noexcept { return needed_; }

 private:
  struct Placed {
    std::size_t begin, end;  // half positions
    std::size_t drained;     // a half position by which what was handed over has probably left
    std::size_t offset, bytes;
  };

  /// What all placements of a plan have to keep to.
  struct Terms {
    const Trace& trace;
    std::size_t capacity;
    std::span<const Slot> shared;
    std::vector<std::size_t> tops;  ///< A use: how high memory is filled at its acquisition without look-ahead.
    std::size_t room;               ///< What may be filled that high.
  };

  static constexpr std::size_t event_time(std::size_t position) { return 2 * position + 2; }
  static constexpr std::size_t post_time(std::size_t events_before) { return 2 * events_before + 1; }

  bool place_all(const Terms& terms, std::size_t look_ahead) {
    slots_.clear();
    std::vector<Placed> placed;
    std::vector<Placed> waiting;  // posted and not yet acquired
    std::size_t earliest = 0;
    for (const TraceUse& use : terms.trace.uses) {
      const auto is_over = [&](const Placed& p) { return std::max(p.end, p.drained) <= post_time(earliest); };
      std::erase_if(placed, is_over);
      std::erase_if(waiting, is_over);
      std::optional<Slot> slot;
      const std::size_t end = event_time(use.released);
      if (use.kind == UseKind::gathered) {
        for (std::size_t post = earliest; post <= use.acquired && !slot; ++post) {
          const std::size_t begin = post_time(post);
          if (posted_bytes(waiting, begin) + use.bytes > look_ahead) continue;
          if (const auto offset = choose(terms, placed, begin, use)) {
            slot = Slot{*offset, post};
            waiting.push_back({begin, event_time(use.acquired), 0, *offset, use.bytes});
            earliest = post;
          }
        }
      }
      const std::size_t begin = slot ? post_time(slot->post) : event_time(use.acquired);
      if (!slot) {
        const auto offset = choose(terms, placed, begin, use);
        if (!offset) return false;
        slot = Slot{*offset, on_demand};
      }
      placed.push_back({begin, end, drained_by(terms.trace, use), slot->offset, use.bytes});
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

  /// Where the use goes that occupies its range from `begin` on: low or high, preferably where the former content has
  /// drained.
  std::optional<std::size_t> choose(const Terms& terms, std::span<const Placed> placed, std::size_t begin,
                                    const TraceUse& use) const {
    const std::size_t end = event_time(use.released);
    const auto overlapping = [&](auto end_of) {
      std::vector<Placed> others;
      for (const Placed& p : placed) {
        if (p.begin < end && begin < end_of(p)) others.push_back(p);
      }
      std::ranges::sort(others, {}, &Placed::offset);
      return others;
    };
    const auto free = overlapping([](const Placed& p) { return p.end; });
    if (slots_.size() < terms.shared.size()) {
      const std::size_t offset = terms.shared[slots_.size()].offset;
      const bool is_free = std::ranges::none_of(
          free, [&](const Placed& p) { return p.offset < offset + use.bytes && offset < p.offset + p.bytes; });
      return is_free ? std::optional{offset} : std::nullopt;
    }
    const auto drained = overlapping([](const Placed& p) { return std::max(p.end, p.drained); });
    for (const auto& others : {drained, free}) {
      for (const auto& offset :
           {lowest(others, use.bytes, terms.capacity), highest(others, use.bytes, terms.capacity)}) {
        if (offset && leaves_room(terms, placed, use, *offset)) return offset;
      }
    }
    return std::nullopt;
  }

  static std::optional<std::size_t> lowest(std::span<const Placed> taken, std::size_t bytes, std::size_t capacity) {
    std::size_t offset = 0;
    for (const Placed& p : taken) {
      if (p.offset >= offset + bytes) break;
      offset = std::max(offset, p.offset + p.bytes);
    }
    return offset + bytes <= capacity ? std::optional{offset} : std::nullopt;
  }

  static std::optional<std::size_t> highest(std::span<const Placed> taken, std::size_t bytes, std::size_t capacity) {
    std::optional<std::size_t> found;
    std::size_t gap_begin = 0;
    for (const Placed& p : taken) {
      if (p.offset >= gap_begin + bytes) found = p.offset - bytes;
      gap_begin = std::max(gap_begin, p.offset + p.bytes);
    }
    return capacity >= gap_begin + bytes ? std::optional{capacity - bytes} : found;
  }

  /// Whether the buffers in use when `use` is acquired leave enough room in one piece if it lies at `offset`.
  bool leaves_room(const Terms& terms, std::span<const Placed> placed, const TraceUse& use, std::size_t offset) const {
    AddressRanges in_use;
    in_use.insert(offset, use.bytes);
    for (const Placed& p : placed) {
      if (p.end > event_time(use.acquired)) in_use.insert(p.offset, p.bytes);
    }
    return in_use.largest_gap(terms.capacity) + terms.tops[slots_.size()] >= terms.room;
  }

  /// How high memory is filled once each use is acquired, if every use goes to the lowest free offset.
  static std::vector<std::size_t> stacked(const Trace& trace) {
    AddressRanges ranges;
    std::vector<std::size_t> tops;
    std::vector<std::size_t> offsets;
    for (const TraceEvent& event : trace.events) {
      if (event.kind == TraceEvent::Kind::acquire) {
        const std::size_t bytes = trace.uses[event.use].bytes;
        offsets.push_back(ranges.lowest(bytes));
        ranges.insert(offsets.back(), bytes);
        tops.push_back(ranges.top());
      } else {
        ranges.erase(offsets[event.use]);
      }
    }
    return tops;
  }

  std::size_t needed_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace zerospan::inline v0
