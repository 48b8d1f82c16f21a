/// @file
/// OverlapPipeline: which buffer is where, and what is fetched ahead of its use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/pipeline/address_ranges.hpp>
#include <zerospan/pipeline/path_memory.hpp>
#include <zerospan/pipeline/trace.hpp>
#include <zerospan/pipeline/working_memory.hpp>

namespace zerospan::inline v0 {

struct PipelineCounters {
  std::uint64_t hits = 0;     ///< Gathers that had been posted ahead.
  std::uint64_t misses = 0;   ///< Gathers fetched on demand.
  std::uint64_t mended = 0;   ///< Passes that left the path they were expected to take.
  std::uint64_t dropped = 0;  ///< Prefetches given up unused.
  std::uint64_t kept = 0;     ///< Gathers of what had stayed in device memory since its last use.
};

/// Records each pass's trace of leases; from the second pass on it prefetches along the path that it expects (the
/// overlap-centric design of ZeRO-Infinity, arXiv 2104.07857, section 6.2). While the pass follows that path, addresses
/// and postings come from its IntervalPlan, and what is needed again soonest stays in memory. A use that the path did
/// not predict is fetched on demand, and the look-ahead goes on from there with what memory is left; the pass becomes a
/// path of its own. Everything is decided by the order of the calls, nothing by time.
class OverlapPipeline {
 public:
  /// Starts the gather of `key` into `data`, after `after`; returns its end.
  using Fetch = std::function<Completion(UseKey key, std::byte* data, std::vector<Completion> after)>;

  /// Longer passes are not learned: planning them would take longer than it saves.
  static constexpr std::size_t max_planned_uses = std::size_t{1} << 14;

  /// A buffer in use.
  struct Buffer {
    std::size_t use;  ///< Names it until its release.
    std::byte* data;
    std::vector<Completion> ready;  ///< What its first use waits for.
  };

  /// @param look_ahead Bytes that may be posted and not yet used.
  OverlapPipeline(WorkingMemory memory, Bytes look_ahead, Fetch fetch)
      : memory_{std::move(memory)}, look_ahead_{look_ahead.count}, fetch_{std::move(fetch)} {}

  /// @return Nothing if no room is left beside the buffers in use.
  std::optional<Buffer> acquire(UseKey key, UseKind kind, std::size_t bytes) {
    bytes = round_up(bytes, WorkingMemory::alignment);
    follow_acquire(key, kind, bytes);
    std::optional<Pending> pending = claim(key, kind);
    if (!pending) {
      const auto offset = place(bytes);
      if (!offset) return std::nullopt;
      std::vector<Completion> after = memory_.take(*offset, bytes);
      if (kind == UseKind::gathered) after = {fetch_(key, memory_.data(*offset), std::move(after))};
      pending = Pending{0, key, *offset, bytes, std::move(after), false};
    }
    if (kind == UseKind::gathered)
      ++(!claimed_ ? counters_.misses : pending->has_stayed ? counters_.kept : counters_.hits);
    const std::size_t use = recorded_.acquire(key, kind, bytes, pending->offset);
    in_use_.insert(pending->offset, bytes);
    stacked_at_.push_back(stacked_.lowest(bytes));
    stacked_.insert(stacked_at_.back(), bytes);
    look_ahead();
    return Buffer{use, memory_.data(pending->offset), std::move(pending->ready)};
  }

  void release(std::size_t use, std::vector<Completion> last_uses) {
    if (following_) {
      const auto& events = path_->trace.events;
      const TraceEvent event{TraceEvent::Kind::release, use};
      if (recorded_.events.size() >= events.size() || events[recorded_.events.size()] != event) {
        Trace begun = recorded_;
        begun.release(use);
        change_path(begun);
      }
    }
    if (!keep(use, last_uses)) memory_.give_back(recorded_.uses[use].offset, std::move(last_uses));
    in_use_.erase(recorded_.uses[use].offset);
    stacked_.erase(stacked_at_[use]);
    recorded_.release(use);
    look_ahead();
  }

  /// A buffer outside of every pass. A pass under way is none to learn from.
  std::optional<Buffer> acquire_untraced(std::size_t bytes) {
    if (following_) leave_path();
    path_ = nullptr;
    is_disturbed_ = true;
    drop_pending(pending_.begin());
    bytes = round_up(bytes, WorkingMemory::alignment);
    const auto offset = memory_.find(bytes);
    if (!offset) return std::nullopt;
    ++untraced_;
    return Buffer{*offset, memory_.data(*offset), memory_.take(*offset, bytes)};
  }
  void release_untraced(const Buffer& buffer, std::vector<Completion> last_uses) {
    memory_.give_back(buffer.use, std::move(last_uses));
    if (--untraced_ == 0 && pass_is_empty()) begin_pass(pass_);
  }

  /// Gives up what was posted and not used; the parameters are about to change.
  void end_pass() {
    drop_pending(pending_.begin());
    Trace passed = std::exchange(recorded_, {});
    stacked_at_.clear();
    if (!passed.events.empty() && passed.uses.size() <= max_planned_uses && !is_disturbed_) {
      paths_.learn(pass_, std::move(passed), memory_.capacity(), look_ahead_);
    }
    path_ = nullptr;
    following_ = false;
  }

  /// Begins a pass of a kind and posts the first of its prefetches.
  void begin_pass(std::uint8_t pass) {
    pass_ = pass;
    is_disturbed_ = untraced_ > 0;
    path_ = look_ahead_ > 0 && !is_disturbed_ ? paths_.expected(pass) : nullptr;
    following_ = path_ != nullptr;
    has_strayed_ = false;
    next_ = 0;
    look_ahead();
  }

  bool pass_is_empty() const noexcept { return recorded_.events.empty(); }
  std::uint8_t pass() const noexcept { return pass_; }
  std::size_t capacity() const noexcept { return memory_.capacity(); }
  std::size_t largest_free() const { return memory_.largest_free(); }

  /// Bytes that were posted ahead and not yet used.
  std::size_t posted_bytes() const {
    std::size_t bytes = 0;
    for (const Pending& p : pending_) bytes += p.has_stayed ? 0 : p.bytes;
    return bytes;
  }

  const PipelineCounters& counters() const noexcept { return counters_; }

 private:
  /// Posted, or kept, and not yet used.
  struct Pending {
    std::size_t use;  ///< Of the expected path.
    UseKey key;
    std::size_t offset;
    std::size_t bytes;
    std::vector<Completion> ready;  ///< The end of its gather, or of its last uses.
    bool has_stayed;
  };

  void follow_acquire(UseKey key, UseKind kind, std::size_t bytes) {
    const auto matches = [&](const TraceUse& use) { return use.key == key && use.kind == kind; };
    if (following_) {
      const std::size_t position = recorded_.events.size();
      const Trace& trace = path_->trace;
      if (position < trace.events.size() && trace.events[position].kind == TraceEvent::Kind::acquire &&
          matches(trace.uses[trace.events[position].use])) {
        return;
      }
      Trace begun = recorded_;
      begun.acquire(key, kind, bytes, 0);
      if (change_path(begun)) return;
    }
    if (!path_) return;
    const auto& uses = path_->trace.uses;
    const auto resumed = std::find_if(uses.begin() + static_cast<std::ptrdiff_t>(resume_), uses.end(), matches);
    if (resumed != uses.end()) resume_ = static_cast<std::size_t>(resumed - uses.begin()) + 1;
  }

  /// Goes over to a known path that begins as the pass has begun, or leaves the path. @return Whether there is one.
  bool change_path(const Trace& begun) {
    const Path* const other = paths_.continuation(pass_, begun);
    if (!other) {
      leave_path();
      return false;
    }
    stray();
    path_ = other;
    const auto& uses = path_->trace.uses;
    drop_pending(std::stable_partition(pending_.begin(), pending_.end(), [&](const Pending& p) {
      return p.use < uses.size() && uses[p.use].key == p.key && uses[p.use].kind == UseKind::gathered &&
             path_->plan[p.use].offset == p.offset;
    }));
    next_ = begun.uses.size();
    return true;
  }

  void leave_path() {
    following_ = false;
    resume_ = recorded_.uses.size();
    stray();
  }

  void stray() {
    if (!std::exchange(has_strayed_, true)) ++counters_.mended;
  }

  /// Whether the buffers in use leave enough room in one piece beside another one: as much as if every buffer were at
  /// its lowest place, up to what the known paths need.
  bool leaves_room(std::size_t offset, std::size_t bytes) const {
    AddressRanges beside = in_use_;
    beside.insert(offset, bytes);
    const std::size_t top = std::max(stacked_.top(), stacked_.lowest(bytes) + bytes);
    return beside.largest_gap(memory_.capacity()) + top >= std::min(memory_.capacity(), paths_.needed());
  }

  std::optional<Pending> claim(UseKey key, UseKind kind) {
    claimed_ = false;
    if (kind != UseKind::gathered) return std::nullopt;
    const auto found = following_ ? std::ranges::find(pending_, recorded_.uses.size(), &Pending::use)
                                  : std::ranges::find(pending_, key, &Pending::key);
    if (found == pending_.end()) return std::nullopt;
    Pending result = std::move(*found);
    pending_.erase(found);
    claimed_ = following_ || leaves_room(result.offset, result.bytes);
    if (claimed_) return result;
    give_up(result);
    return std::nullopt;
  }

  /// Where a use that was not posted ahead goes; prefetches give way to it, the farthest first.
  std::optional<std::size_t> place(std::size_t bytes) {
    if (following_) {
      const std::size_t offset = path_->plan[recorded_.uses.size()].offset;
      if (memory_.is_free(offset, bytes)) return offset;
      leave_path();
    }
    while (true) {
      const auto low = memory_.find(bytes);
      if (low && leaves_room(*low, bytes)) return low;
      const auto high = memory_.find_highest(bytes);
      if (high && leaves_room(*high, bytes)) return high;
      if (pending_.empty()) return low;
      drop_pending(std::prev(pending_.end()));
    }
  }

  void look_ahead() {
    if (!path_) return;
    if (following_) {
      post_planned();
    } else {
      post_mended();
    }
  }

  void post_planned() {
    const auto& uses = path_->trace.uses;
    for (; next_ < uses.size(); ++next_) {
      const IntervalPlan::Slot& slot = path_->plan[next_];
      if (slot.post == IntervalPlan::on_demand) continue;
      if (slot.post > recorded_.events.size()) return;
      if (!is_pending(next_) && memory_.is_free(slot.offset, uses[next_].bytes)) post(next_, slot.offset);
    }
  }

  bool is_pending(std::size_t use) const { return std::ranges::find(pending_, use, &Pending::use) != pending_.end(); }

  /// Prefetches off the path are placed from above, so that what is taken on demand finds its room in one piece.
  void post_mended() {
    drop_pending(
        std::stable_partition(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.use >= resume_; }));
    const auto& uses = path_->trace.uses;
    for (next_ = std::max(next_, resume_); next_ < uses.size(); ++next_) {
      if (uses[next_].kind != UseKind::gathered || is_pending(next_)) continue;
      const auto offset = memory_.find_highest(uses[next_].bytes);
      if (!offset || posted_bytes() + uses[next_].bytes > look_ahead_) return;
      post(next_, *offset);
    }
  }

  void post(std::size_t use, std::size_t offset) {
    const TraceUse& expected = path_->trace.uses[use];
    Completion ready = fetch_(expected.key, memory_.data(offset), memory_.take(offset, expected.bytes));
    await({use, expected.key, offset, expected.bytes, {std::move(ready)}, false});
  }

  /// Leaves a buffer that is released where it is, if the plan says so. @return Whether it does.
  bool keep(std::size_t use, std::vector<Completion>& last_uses) {
    if (!following_) return false;
    const IntervalPlan::Slot& slot = path_->plan[use];
    if (slot.kept_for == TraceUse::never) return false;
    const TraceUse& kept = recorded_.uses[use];
    await({slot.kept_for, kept.key, kept.offset, kept.bytes, std::move(last_uses), true});
    return true;
  }

  /// Pending buffers stand in the order of their uses.
  void await(Pending pending) {
    const auto next = std::ranges::upper_bound(pending_, pending.use, {}, &Pending::use);
    pending_.insert(next, std::move(pending));
  }

  void drop_pending(std::vector<Pending>::iterator first) {
    for (auto p = first; p != pending_.end(); ++p) give_up(*p);
    pending_.erase(first, pending_.end());
  }

  void give_up(const Pending& pending) {
    memory_.give_back(pending.offset, pending.ready);
    if (!pending.has_stayed) ++counters_.dropped;
  }

  WorkingMemory memory_;
  std::size_t look_ahead_;
  Fetch fetch_;
  PathMemory paths_;
  PipelineCounters counters_;

  std::uint8_t pass_ = 0;
  Trace recorded_;
  const Path* path_ = nullptr;  ///< The path that the pass is expected to take; nullptr: unknown.
  bool following_ = false;      ///< The pass has followed it exactly so far.
  std::size_t next_ = 0;        ///< The first use of the path that was not considered for posting.
  std::size_t resume_ = 0;      ///< Off the path: the first of its uses that may still come.
  bool claimed_ = false;
  bool has_strayed_ = false;   ///< The pass has left the path that it was expected to take.
  std::size_t untraced_ = 0;   ///< Buffers in use outside of every pass.
  bool is_disturbed_ = false;  ///< There was one during the pass: its addresses are no example.
  std::vector<Pending> pending_;
  AddressRanges in_use_;                 ///< Where the buffers in use are ...
  AddressRanges stacked_;                ///< ... and where they would be, each at its lowest place.
  std::vector<std::size_t> stacked_at_;  ///< A use: its lowest place.
};

}  // namespace zerospan::inline v0
