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
#include <zerospan/pipeline/detail/path_memory.hpp>
#include <zerospan/pipeline/detail/pending_gathers.hpp>
#include <zerospan/pipeline/detail/room.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>
#include <zerospan/pipeline/pipeline_counters.hpp>

namespace zerospan::inline v0::detail {

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
    std::optional<PendingGather> pending = claim(key, kind);
    const bool has_stayed = pending && pending->has_stayed;
    const bool was_posted = pending && !has_stayed;
    if (!pending) {
      const auto offset = place(bytes);
      if (!offset) return std::nullopt;
      std::vector<Completion> after = memory_.take(*offset, bytes);
      if (kind == UseKind::gathered) after = {fetch_(key, memory_.data(*offset), std::move(after))};
      pending = PendingGather{0, key, *offset, bytes, std::move(after), false};
    }
    if (kind == UseKind::gathered) ++(has_stayed ? counters_.kept : was_posted ? counters_.hits : counters_.misses);
    const std::size_t use = recorded_.acquire(key, kind, bytes, pending->offset);
    room_.add(pending->offset, bytes);
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
    room_.remove(use, recorded_.uses[use].offset);
    recorded_.release(use);
    look_ahead();
  }

  /// A buffer outside of every pass. A pass under way is none to learn from.
  std::optional<Buffer> acquire_untraced(std::size_t bytes) {
    if (following_) leave_path();
    path_ = nullptr;
    is_disturbed_ = true;
    pending_.give_up_all();
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
    pending_.give_up_all();
    Trace passed = std::exchange(recorded_, {});
    room_.restart();
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
  std::size_t posted_bytes() const { return pending_.posted_bytes(); }

  PipelineCounters counters() const {
    PipelineCounters counters = counters_;
    counters.dropped = pending_.dropped();
    return counters;
  }

 private:
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
    pending_.give_up_unless([&](const PendingGather& p) {
      return p.use < uses.size() && uses[p.use].key == p.key && uses[p.use].kind == UseKind::gathered &&
             path_->plan[p.use].offset == p.offset;
    });
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

  bool leaves_room(std::size_t offset, std::size_t bytes) const {
    return room_.remains_beside(offset, bytes, memory_.capacity(), paths_.needed());
  }

  std::optional<PendingGather> claim(UseKey key, UseKind kind) {
    if (kind != UseKind::gathered) return std::nullopt;
    auto found = following_ ? pending_.take(recorded_.uses.size()) : pending_.take(key);
    if (found && !following_ && !leaves_room(found->offset, found->bytes)) {
      pending_.give_up(*found);
      return std::nullopt;
    }
    return found;
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
      pending_.give_up_farthest();
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
      if (!pending_.contains(next_) && memory_.is_free(slot.offset, uses[next_].bytes)) post(next_, slot.offset);
    }
  }

  /// Prefetches off the path are placed from above, so that what is taken on demand finds its room in one piece.
  void post_mended() {
    pending_.give_up_unless([&](const PendingGather& p) { return p.use >= resume_; });
    const auto& uses = path_->trace.uses;
    for (next_ = std::max(next_, resume_); next_ < uses.size(); ++next_) {
      if (uses[next_].kind != UseKind::gathered || pending_.contains(next_)) continue;
      const auto offset = memory_.find_highest(uses[next_].bytes);
      if (!offset || pending_.posted_bytes() + uses[next_].bytes > look_ahead_) return;
      post(next_, *offset);
    }
  }

  void post(std::size_t use, std::size_t offset) {
    const TraceUse& expected = path_->trace.uses[use];
    Completion ready = fetch_(expected.key, memory_.data(offset), memory_.take(offset, expected.bytes));
    pending_.add({use, expected.key, offset, expected.bytes, {std::move(ready)}, false});
  }

  /// Leaves a buffer that is released where it is, if the plan says so. @return Whether it does.
  bool keep(std::size_t use, std::vector<Completion>& last_uses) {
    if (!following_) return false;
    const IntervalPlan::Slot& slot = path_->plan[use];
    if (slot.kept_for == TraceUse::never) return false;
    const TraceUse& kept = recorded_.uses[use];
    pending_.add({slot.kept_for, kept.key, kept.offset, kept.bytes, std::move(last_uses), true});
    return true;
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
  bool has_strayed_ = false;    ///< The pass has left the path that it was expected to take.
  std::size_t untraced_ = 0;    ///< Buffers in use outside of every pass.
  bool is_disturbed_ = false;   ///< There was one during the pass: its addresses are no example.
  PendingGathers pending_{memory_};
  Room room_;
};

}  // namespace zerospan::inline v0::detail
