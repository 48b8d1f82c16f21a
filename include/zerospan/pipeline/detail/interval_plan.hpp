/// @file
/// IntervalPlan: once a pass is known, where each of its buffers goes and when its prefetch is posted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// A static plan over a trace. Time is counted in half positions: prefetches that follow k events are posted at 2k + 1,
/// the event at position k happens at 2k + 2. A use occupies its range from its posting (or its acquisition) to its
/// release, or on to its next use, which then needs no gather.
class IntervalPlan {
 public:
  /// "Not posted ahead of its acquisition."
  static constexpr std::size_t on_demand = TraceUse::never;

  struct Slot {
    std::size_t offset;  ///< In working memory.
    std::size_t post;    ///< Events that have happened when it is posted: 0 is before the first. `on_demand`: none.
    std::size_t kept_for = TraceUse::never;  ///< The next use, if the buffer stays for it.
  };

  /// Uses are placed in the order of their acquisition, each where its last use was, if the buffer has stayed (as
  /// Residency chooses, and the ranges allow), or at the earliest posting at which (1) it is not posted before its
  /// predecessors, (2) at most `look_ahead` bytes are posted and not yet acquired, (3) a range is free until its
  /// release, and (4) the buffers then in use leave as much room in one piece as without any look-ahead, up to what is
  /// needed: a pass that goes on in another way finds its room. Where greed leaves a later use without a range, nothing
  /// stays, and the look-ahead is halved; without any, the recorded addresses, which are known to fit, are the plan.
  /// @param shared The places of the first uses in the plans of paths that begin alike; the recording has them too.
  /// @param needed What other paths need.
  IntervalPlan(const Trace& trace, std::size_t capacity, std::size_t look_ahead, std::span<const Slot> shared = {},
               std::size_t needed = 0) {
    Terms terms{trace, capacity, shared, stacked(trace), 0};
    needed_ = terms.tops.empty() ? 0 : std::ranges::max(terms.tops);
    terms.room = std::min(capacity, std::max(needed, needed_));
    const std::size_t reserve = std::min(look_ahead, ahead * largest_gather(trace));
    const Residency residency = capacity > reserve ? Residency{trace, capacity - reserve} : Residency{trace};
    if (look_ahead > 0 && place_all(terms, look_ahead, residency)) return;
    for (std::size_t bytes = look_ahead; bytes > 0; bytes /= 2) {
      if (place_all(terms, bytes, Residency{trace})) return;
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
  /// Operators whose gathers are under way while another one computes (ZeRO-Infinity, section 6.2): memory that what
  /// stays leaves to the look-ahead.
  static constexpr std::size_t ahead = 3;

  struct Placed {
    std::size_t begin, end;  // half positions
    std::size_t drained;     // a half position by which what was handed over has probably left
    std::size_t kept;        // the end of the next use, if it stays for it; else 0
    std::size_t offset, bytes;

    std::size_t occupied() const { return std::max(end, kept); }
    std::size_t over() const { return std::max(occupied(), drained); }
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

  bool place_all(const Terms& terms, std::size_t look_ahead, const Residency& residency) {
    slots_.clear();
    std::vector<Placed> placed;
    std::vector<Placed> waiting;                                                // posted and not yet acquired
    std::vector<std::size_t> stayed(terms.trace.uses.size(), TraceUse::never);  // a use: the one that it stays from
    std::size_t earliest = 0;
    for (std::size_t u = 0; u < terms.trace.uses.size(); ++u) {
      const TraceUse& use = terms.trace.uses[u];
      const auto is_over = [&](const Placed& p) { return p.over() <= post_time(earliest); };
      std::erase_if(placed, is_over);
      std::erase_if(waiting, is_over);
      const std::size_t kept_for = residency.kept_for(u);
      const std::size_t kept = kept_for == TraceUse::never ? 0 : event_time(terms.trace.uses[kept_for].released);
      std::optional<Slot> slot = stay(terms, placed, stayed[u], use);
      const bool has_stayed = slot.has_value();
      bool stays = kept > 0;
      if (!slot && stays) slot = post(terms, placed, waiting, look_ahead, earliest, use, kept);
      if (!slot) {
        slot = post(terms, placed, waiting, look_ahead, earliest, use, 0);
        stays = stays && !slot;
      }
      if (!slot && stays) slot = acquire(terms, placed, use, kept);
      if (!slot) {
        slot = acquire(terms, placed, use, 0);
        stays = false;
      }
      if (!slot) return false;
      if (!has_stayed && slot->post != on_demand) {
        earliest = slot->post;
        waiting.push_back({post_time(earliest), event_time(use.acquired), 0, 0, slot->offset, use.bytes});
      }
      const std::size_t begin = slot->post == on_demand ? event_time(use.acquired) : post_time(slot->post);
      placed.push_back(
          {begin, event_time(use.released), drained_by(terms.trace, use), stays ? kept : 0, slot->offset, use.bytes});
      if (stays) {
        slot->kept_for = kept_for;
        stayed[kept_for] = u;
      }
      slots_.push_back(*slot);
    }
    return true;
  }

  /// The place of a use whose buffer stays from `before`. The range is its own since then; where the pass has no room
  /// left around it, the buffer does not stay.
  std::optional<Slot> stay(const Terms& terms, std::span<const Placed> placed, std::size_t before,
                           const TraceUse& use) {
    if (before == TraceUse::never) return std::nullopt;
    const std::size_t offset = slots_[before].offset;
    const bool is_shared = slots_.size() < terms.shared.size();
    if ((is_shared ? terms.shared[slots_.size()].offset == offset : leaves_room(terms, placed, use, offset))) {
      return Slot{offset, on_demand};
    }
    slots_[before].kept_for = TraceUse::never;
    return std::nullopt;
  }

  /// The place of a use that is posted ahead; it occupies its range until `kept`, at least until its release.
  std::optional<Slot> post(const Terms& terms, std::span<const Placed> placed, std::span<const Placed> waiting,
                           std::size_t look_ahead, std::size_t earliest, const TraceUse& use, std::size_t kept) const {
    if (use.kind != UseKind::gathered) return std::nullopt;
    for (std::size_t events = earliest; events <= use.acquired; ++events) {
      const std::size_t begin = post_time(events);
      if (posted_bytes(waiting, begin) + use.bytes > look_ahead) continue;
      const auto offset = choose(terms, placed, begin, std::max(event_time(use.released), kept), use);
      if (offset) return Slot{*offset, events};
    }
    return std::nullopt;
  }

  /// The place of a use that is not posted ahead.
  std::optional<Slot> acquire(const Terms& terms, std::span<const Placed> placed, const TraceUse& use,
                              std::size_t kept) const {
    const std::size_t end = std::max(event_time(use.released), kept);
    const auto offset = choose(terms, placed, event_time(use.acquired), end, use);
    return offset ? std::optional{Slot{*offset, on_demand}} : std::nullopt;
  }

  static std::size_t largest_gather(const Trace& trace) {
    std::size_t largest = 0;
    for (const TraceUse& use : trace.uses) {
      if (use.kind == UseKind::gathered) largest = std::max(largest, use.bytes);
    }
    return largest;
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

  /// Where the use goes that occupies its range from `begin` to `end`: low or high, preferably where the former content
  /// has drained.
  std::optional<std::size_t> choose(const Terms& terms, std::span<const Placed> placed, std::size_t begin,
                                    std::size_t end, const TraceUse& use) const {
    const auto overlapping = [&](auto end_of) {
      std::vector<Placed> others;
      for (const Placed& p : placed) {
        if (p.begin < end && begin < std::invoke(end_of, p)) others.push_back(p);
      }
      std::ranges::sort(others, {}, &Placed::offset);
      return others;
    };
    const auto free = overlapping(&Placed::occupied);
    if (slots_.size() < terms.shared.size()) {
      const std::size_t offset = terms.shared[slots_.size()].offset;
      const bool is_free = std::ranges::none_of(
          free, [&](const Placed& p) { return p.offset < offset + use.bytes && offset < p.offset + p.bytes; });
      return is_free ? std::optional{offset} : std::nullopt;
    }
    const auto drained = overlapping(&Placed::over);
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

}  // namespace zerospan::inline v0::detail
