/// @file
/// IntervalPlan: once a pass is known, where each of its buffers goes and when its prefetch is posted.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <optional>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// Ranges of memory that are taken until a time each, at a time that goes forward.
class TimedRanges {
 public:
  /// Lets the time go forward to `time`, when whatever ends by then is free. @return Whether anything has ended.
  bool advance(std::size_t time) {
    time_ = time;
    bool any = false;
    for (; !ends_.empty() && ends_.top().first <= time; ends_.pop()) {
      const auto [until, offset] = ends_.top();
      const auto range = ranges_.find(offset);
      if (!range || range->label != until) continue;  // it was taken anew since
      ranges_.erase(offset);
      any = true;
    }
    return any;
  }

  /// Takes [offset, offset + bytes) until a time. What it was taken for before is over by then, and forgotten.
  void take(std::size_t offset, std::size_t bytes, std::size_t until) {
    const std::size_t end = offset + bytes;
    while (const auto former = ranges_.first_overlap(offset, bytes)) {
      ranges_.erase(former->begin);
      if (former->begin < offset) insert(former->begin, offset, former->label);
      if (former->end > end) insert(end, former->end, former->label);
    }
    if (until > time_) insert(offset, end, until);
  }

  const AddressRanges& taken() const noexcept { return ranges_; }

 private:
  void insert(std::size_t begin, std::size_t end, std::size_t until) {
    ranges_.insert(begin, end - begin, until);
    ends_.emplace(until, begin);
  }

  using End = std::pair<std::size_t, std::size_t>;  // a time, and where the range begins that ends then

  AddressRanges ranges_;  // the label of a range is the time that it is taken until
  std::priority_queue<End, std::vector<End>, std::greater<>> ends_;
  std::size_t time_ = 0;
};

/// A static plan over a trace. Time is counted in half positions: prefetches that follow k events are posted at 2k + 1,
/// the event at position k happens at 2k + 2. A use occupies its range from its posting (or its acquisition) to its
/// release, or on to its next use, which then needs no gather. Planning takes time in proportion to n log n, n being
/// the length of the trace, for each look-ahead that is tried.
class IntervalPlan {
 public:
  /// "Not posted ahead of its acquisition."
  static constexpr std::size_t on_demand = TraceUse::never;

  struct Slot {
    std::size_t offset;  ///< In working memory.
    std::size_t post;    ///< Events that have happened when it is posted: 0 is before the first. `on_demand`: none.
    std::size_t kept_for = TraceUse::never;  ///< The next use, if the buffer stays for it.
  };

  /// Gathers that are under way while another operator computes: one is read, one copied to the device, one in its
  /// all-gather (ZeRO-Infinity, section 6.2). So much memory is left to the look-ahead by what stays.
  static constexpr std::size_t usual_gathers_ahead = 3;

  /// Uses are placed in the order of their acquisition, each where its last use was, if the buffer has stayed (as
  /// Residency chooses, and the ranges allow), or at the earliest posting at which (1) it is not posted before its
  /// predecessors, (2) at most `look_ahead` bytes are posted and not yet acquired, (3) a range is free until its
  /// release, and (4) the buffers then in use leave as much room in one piece as without any look-ahead, up to what is
  /// needed: a pass that goes on in another way finds its room. Where greed leaves a later use without a range, nothing
  /// stays, and the look-ahead is halved; without any, the plan is what was recorded, which is known to fit.
  /// @param shared The places of the first uses in the plans of paths that begin alike; the recording has them too.
  /// @param needed What other paths need. @param gathers_ahead See `usual_gathers_ahead`.
  IntervalPlan(const Trace& trace, std::size_t capacity, std::size_t look_ahead, std::span<const Slot> shared = {},
               std::size_t needed = 0, std::size_t gathers_ahead = usual_gathers_ahead) {
    const std::vector<std::size_t> tops = stacked(trace);
    needed_ = tops.empty() ? 0 : std::ranges::max(tops);
    const Terms terms{trace, capacity, shared, tops, ends(trace), std::min(capacity, std::max(needed, needed_))};
    const std::size_t reserve = std::min(look_ahead, gathers_ahead * largest_gather(trace));
    const Residency residency = capacity > reserve ? Residency{trace, capacity - reserve} : Residency{trace};
    if (look_ahead > 0 && place_all(terms, look_ahead, residency)) return;
    const auto [smallest, all] = gathered_bytes(trace);
    for (std::size_t bytes = std::min(look_ahead, all); bytes > 0; bytes /= 2) {
      if (place_all(terms, bytes, Residency{trace})) return;
      if (bytes < smallest) break;  // nothing was posted ahead
    }
    repeat(trace);
  }

  /// The pass as it was recorded, with what was posted ahead and came in time; nothing is planned.
  static IntervalPlan recorded(const Trace& trace) {
    IntervalPlan plan;
    plan.needed_ = trace.needed;
    plan.repeat(trace);
    return plan;
  }

  const Slot& operator[](std::size_t use) const { return slots_[use]; }
  std::size_t size() const noexcept { return slots_.size(); }

  /// The places of the first `count` uses.
  std::span<const Slot> first(std::size_t count) const { return std::span{slots_}.first(count); }

  /// Bytes of memory that the trace needs without any look-ahead.
  std::size_t needed() const noexcept { return needed_; }

  /// Elementary steps that planning took: visits of nodes, postings and places that were tried.
  std::size_t steps() const noexcept { return steps_; }

 private:
  /// How long gradients' buffers are left alone after their release, best first: until the gradients that are released
  /// after them have so many times the bytes of the largest one. Reductions read them then; a rank that is ahead of the
  /// others does not wait for their part in it, to compute in the same memory.
  static constexpr std::array<std::size_t, 3> rests{2, 1, 0};

  /// The time at which a use is over, for each of `rests`.
  using Ends = std::array<std::size_t, rests.size()>;

  /// What all placements of a plan have to keep to.
  struct Terms {
    const Trace& trace;
    std::size_t capacity;
    std::span<const Slot> shared;
    const std::vector<std::size_t>& tops;  ///< A use: how high memory is filled at its acquisition without look-ahead.
    std::vector<Ends> ends;                ///< Of the uses.
    std::size_t room;                      ///< What may be filled that high.
  };

  /// Memory as a use finds it that begins at a certain time. Everything placed before begins before the new use ends,
  /// so it is in the way if it ends after the new use begins.
  struct Memory {
    std::array<TimedRanges, rests.size()> ranges;  ///< For each of `rests`.

    /// What must not be taken.
    const AddressRanges& occupied() const noexcept { return ranges.back().taken(); }

    /// @return Whether a range has become free.
    bool advance(std::size_t time) {
      bool any = false;
      for (TimedRanges& each : ranges) any = each.advance(time) || any;
      return any;
    }

    void take(std::size_t offset, std::size_t bytes, const Ends& until) {
      for (std::size_t i = 0; i < until.size(); ++i) ranges[i].take(offset, bytes, until[i]);
    }
  };

  /// One attempt: memory at three points of time, which follow the uses as they are placed.
  struct Sweep {
    Memory at_post;            ///< When the last prefetch was posted.
    Memory at_use;             ///< When the use is acquired.
    TimedRanges in_use;        ///< Then too, without what has stayed.
    std::size_t earliest = 0;  ///< Events that have happened when the last prefetch is posted.
    std::deque<std::pair<std::size_t, std::size_t>> waiting;  ///< Posted and not yet acquired: position, bytes.
    std::size_t waiting_bytes = 0;

    std::size_t steps() const {
      std::size_t sum = in_use.taken().steps();
      for (const Memory* memory : {&at_post, &at_use}) {
        for (const TimedRanges& each : memory->ranges) sum += each.taken().steps();
      }
      return sum;
    }
  };

  IntervalPlan() = default;

  static constexpr std::size_t event_time(std::size_t position) { return 2 * position + 2; }
  static constexpr std::size_t post_time(std::size_t events_before) { return 2 * events_before + 1; }

  void repeat(const Trace& trace) {
    slots_.clear();
    std::size_t last_post = 0;
    for (const TraceUse& use : trace.uses) {
      if (use.posted != TraceUse::never) last_post = std::max(last_post, use.posted);
      slots_.push_back({use.offset, use.posted == TraceUse::never ? on_demand : last_post, use.kept_for});
    }
  }

  bool place_all(const Terms& terms, std::size_t look_ahead, const Residency& residency) {
    const std::vector<TraceUse>& uses = terms.trace.uses;
    slots_.clear();
    Sweep sweep;
    std::vector<std::size_t> stayed(uses.size(), TraceUse::never);  // a use: the one that it stays from
    bool fits = true;
    for (std::size_t u = 0; u < uses.size() && fits; ++u) {
      const TraceUse& use = uses[u];
      sweep.at_use.advance(event_time(use.acquired));
      sweep.in_use.advance(event_time(use.acquired));
      std::optional<Slot> slot = stay(terms, sweep, stayed[u], use);
      if (!slot) slot = place(terms, sweep, look_ahead, use);
      fits = slot.has_value();
      if (!fits) break;
      const std::size_t kept_for = residency.kept_for(u);
      const bool stays = kept_for != TraceUse::never;
      if (stays) {
        slot->kept_for = kept_for;
        stayed[kept_for] = u;
      }
      Ends until = terms.ends[u];
      if (stays) {
        for (std::size_t& each : until) each = std::max(each, event_time(uses[kept_for].released));
      }
      for (Memory* memory : {&sweep.at_post, &sweep.at_use}) memory->take(slot->offset, use.bytes, until);
      slots_.push_back(*slot);
    }
    steps_ += sweep.steps();
    return fits;
  }

  /// The place of a use whose buffer stays from `before`. The range is its own since then; where the pass has no room
  /// left around it, the buffer does not stay.
  std::optional<Slot> stay(const Terms& terms, Sweep& sweep, std::size_t before, const TraceUse& use) {
    if (before == TraceUse::never) return std::nullopt;
    const std::size_t offset = slots_[before].offset;
    const bool is_shared = slots_.size() < terms.shared.size();
    const bool may_stay = !is_shared || terms.shared[slots_.size()].offset == offset;
    if (may_stay && take_in_use(terms, sweep, offset, use)) return Slot{offset, on_demand};
    slots_[before].kept_for = TraceUse::never;
    for (Memory* memory : {&sweep.at_post, &sweep.at_use}) memory->take(offset, use.bytes, terms.ends[before]);
    return std::nullopt;
  }

  /// The place of a use that is gathered into, or written to. Everything that fits into the look-ahead is posted ahead,
  /// in the worst case just before its acquisition, where it finds the same ranges free as on demand.
  std::optional<Slot> place(const Terms& terms, Sweep& sweep, std::size_t look_ahead, const TraceUse& use) {
    if (use.key.kind != UseKind::gathered || use.bytes > look_ahead) {
      const auto offset = choose(terms, sweep, sweep.at_use, use);
      return offset ? std::optional{Slot{*offset, on_demand}} : std::nullopt;
    }
    bool is_changed = true;
    for (std::size_t events = sweep.earliest; events <= use.acquired; ++events) {
      ++steps_;
      is_changed = sweep.at_post.advance(post_time(events)) || is_changed;
      for (; !sweep.waiting.empty() && sweep.waiting.front().first < events; sweep.waiting.pop_front()) {
        sweep.waiting_bytes -= sweep.waiting.front().second;
      }
      if (!is_changed || sweep.waiting_bytes + use.bytes > look_ahead) continue;
      is_changed = false;
      if (const auto offset = choose(terms, sweep, sweep.at_post, use)) {
        sweep.earliest = events;
        sweep.waiting.emplace_back(use.acquired, use.bytes);
        sweep.waiting_bytes += use.bytes;
        return Slot{*offset, events};
      }
    }
    return std::nullopt;
  }

  /// Where the use goes, low or high, preferably where gradients have rested. It is then in use.
  std::optional<std::size_t> choose(const Terms& terms, Sweep& sweep, const Memory& memory, const TraceUse& use) {
    if (slots_.size() < terms.shared.size()) {
      const std::size_t offset = terms.shared[slots_.size()].offset;
      if (!memory.occupied().is_free(offset, use.bytes)) return std::nullopt;
      return take_in_use(terms, sweep, offset, use) ? std::optional{offset} : std::nullopt;
    }
    for (const TimedRanges& ranges : memory.ranges) {
      const std::size_t lowest = ranges.taken().lowest(use.bytes);
      if (lowest + use.bytes <= terms.capacity && take_in_use(terms, sweep, lowest, use)) return lowest;
      const auto highest = ranges.taken().highest(use.bytes, terms.capacity);
      if (highest && take_in_use(terms, sweep, *highest, use)) return highest;
    }
    return std::nullopt;
  }

  /// Takes the range from the acquisition of the use to its release. @return Whether what is then in use leaves enough
  /// room in one piece; places that paths share are not asked.
  bool take_in_use(const Terms& terms, Sweep& sweep, std::size_t offset, const TraceUse& use) {
    ++steps_;
    const std::size_t u = slots_.size();
    sweep.in_use.take(offset, use.bytes, event_time(use.released));
    if (u < terms.shared.size()) return true;
    if (sweep.in_use.taken().largest_gap(terms.capacity) + terms.tops[u] >= terms.room) return true;
    sweep.in_use.take(offset, use.bytes, 0);
    return false;
  }

  static std::size_t largest_gather(const Trace& trace) {
    std::size_t largest = 0;
    for (const TraceUse& use : trace.uses) {
      if (use.key.kind == UseKind::gathered) largest = std::max(largest, use.bytes);
    }
    return largest;
  }

  /// Bytes of the smallest gather, and of all of them.
  static std::pair<std::size_t, std::size_t> gathered_bytes(const Trace& trace) {
    std::size_t smallest = 0;
    std::size_t all = 0;
    for (const TraceUse& use : trace.uses) {
      if (use.key.kind != UseKind::gathered) continue;
      smallest = all == 0 ? use.bytes : std::min(smallest, use.bytes);
      all += use.bytes;
    }
    return {smallest, all};
  }

  static std::vector<Ends> ends(const Trace& trace) {
    const std::vector<TraceUse>& uses = trace.uses;
    std::vector<Ends> result(uses.size());
    std::vector<std::size_t> gradients;  // in the order of their releases
    std::size_t largest = 0;
    for (const TraceEvent& event : trace.events) {
      if (event.kind == TraceEvent::Kind::acquire) continue;
      const TraceUse& use = uses[event.use];
      result[event.use].fill(event_time(use.released));
      if (use.key.kind != UseKind::gradient) continue;
      gradients.push_back(event.use);
      largest = std::max(largest, use.bytes);
    }
    for (std::size_t r = 0; r < rests.size(); ++r) {
      std::size_t last = 0;   // of the gradients that one is left alone for
      std::size_t bytes = 0;  // of all of them
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        last = std::max(last, i);
        while (bytes < rests[r] * largest && last + 1 < gradients.size()) bytes += uses[gradients[++last]].bytes;
        result[gradients[i]][r] = event_time(uses[gradients[last]].released);
        if (last > i) bytes -= uses[gradients[i + 1]].bytes;
      }
    }
    return result;
  }

  /// How high memory is filled once each use is acquired, if every use goes to the lowest free offset.
  std::vector<std::size_t> stacked(const Trace& trace) {
    AddressRanges ranges;
    std::vector<std::size_t> tops;
    std::vector<std::size_t> offsets;
    tops.reserve(trace.uses.size());
    offsets.reserve(trace.uses.size());
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
    steps_ += ranges.steps();
    return tops;
  }

  std::size_t needed_ = 0;
  std::vector<Slot> slots_;
  std::size_t steps_ = 0;
};

}  // namespace zerospan::inline v0::detail
