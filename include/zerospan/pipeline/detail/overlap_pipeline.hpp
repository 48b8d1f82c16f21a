/// @file
/// OverlapPipeline: which buffer is where, and what is fetched ahead of its use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/pipeline/detail/path_memory.hpp>
#include <zerospan/pipeline/detail/pending_gathers.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>
#include <zerospan/pipeline/pipeline_counters.hpp>

namespace zerospan::inline v0::detail {

/// Records each pass's trace of leases; from the second pass on it prefetches along the path that it expects (the
/// overlap-centric design of ZeRO-Infinity, arXiv 2104.07857, section 6.2). While the pass follows that path, addresses
/// and postings come from its IntervalPlan, and what is needed again soonest stays in memory. A use that the path did
/// not predict is fetched on demand, and the look-ahead goes on from there with what memory is left; the pass becomes a
/// path of its own, which is planned as PathMemory says. Everything is decided by the order of the calls, nothing by
/// time; a call takes time logarithmic in the leases of a pass, its end time in proportion to n log n.
class OverlapPipeline {
 public:
  /// Starts the gather of `key` into `data`, after `after`; returns its ends.
  using Fetch = std::function<std::vector<Completion>(UseKey key, std::byte* data, std::vector<Completion> after)>;

  /// When the prefetches of a pass begin.
  enum class Start : std::uint8_t { at_once, at_first_lease };

  /// A buffer in use.
  struct Buffer {
    std::size_t offset;  ///< In working memory; names it until its release.
    std::byte* data;
    std::vector<Completion> ready;  ///< What its first use waits for.
  };

  /// @param look_ahead Bytes that may be posted and not yet used. None: 256 MiB, or what `gathers_ahead` of the largest
  /// gathers take if that is more. @param gathers_ahead See `IntervalPlan::usual_gathers_ahead`.
  OverlapPipeline(WorkingMemory memory, std::optional<Bytes> look_ahead, Fetch fetch,
                  std::size_t gathers_ahead = IntervalPlan::usual_gathers_ahead)
      : memory_{std::move(memory)},
        look_ahead_{look_ahead.value_or(256_MiB).count},
        grows_{!look_ahead},
        gathers_ahead_{gathers_ahead},
        fetch_{std::move(fetch)},
        paths_{gathers_ahead} {}

  /// @return Nothing if no room is left beside the buffers in use.
  std::optional<Buffer> acquire(UseKey key, std::size_t bytes) {
    bytes = round_up(bytes, WorkingMemory::alignment);
    begin_deferred();
    follow_acquire(key);
    std::optional<PendingGather> buffer = claim(key);
    const bool is_miss = !buffer;
    if (is_miss) {
      const auto offset = place(bytes);
      if (!offset) return std::nullopt;
      std::vector<Completion> after = memory_.take(*offset, bytes, use_of(key));
      if (key.kind == UseKind::gathered) after = fetch_(key, memory_.data(*offset), std::move(after));
      buffer = PendingGather{0, key, *offset, bytes, std::move(after)};
    }
    if (key.kind == UseKind::gathered) {
      if (grows_) look_ahead_ = std::max(look_ahead_, gathers_ahead_ * bytes);
      ++(is_miss ? counters_.misses : buffer->has_stayed() ? counters_.kept : counters_.hits);
    }
    record(*buffer);
    look_ahead();
    return Buffer{buffer->offset, memory_.data(buffer->offset), std::move(buffer->ready)};
  }

  /// @param offset Of the buffer. @param last_uses The ends of what still uses it.
  void release(std::size_t offset, std::vector<Completion> last_uses) {
    const std::size_t use = guard_.use_at(offset);
    if (following_) {
      const NextEvent next{TraceEvent::Kind::release, {}, use};
      if (!path_->trace.has(recorded_.events.size(), next)) change_path(next);
    }
    if (!keep(use, last_uses)) memory_.give_back(offset, last_uses);
    guard_.remove(offset);
    recorded_.release(use);
    look_ahead();
  }

  /// A buffer outside of every pass. The pass that is under way meanwhile is not learned: its addresses are no example.
  std::optional<Buffer> acquire_untraced(std::size_t bytes) {
    if (following_) leave_path();
    path_ = nullptr;
    is_disturbed_ = true;
    pending_.give_up_all();
    bytes = round_up(bytes, WorkingMemory::alignment);
    const auto offset = memory_.find(bytes);
    if (!offset) return std::nullopt;
    ++untraced_;
    return Buffer{*offset, memory_.data(*offset), memory_.take(*offset, bytes, WorkingUse::written)};
  }
  void release_untraced(const Buffer& buffer, const std::vector<Completion>& last_uses) {
    memory_.give_back(buffer.offset, last_uses);
    if (--untraced_ == 0 && pass_is_empty() && !is_deferred_) begin_pass(pass_);
  }

  /// Ends a pass. Gives up what was posted and not used: the parameters may be about to change.
  void end_pass() {
    pending_.give_up_all();
    Trace passed = std::exchange(recorded_, {});
    guard_.restart();
    if (!passed.events.empty() && look_ahead_ > 0 && !is_disturbed_) {
      paths_.learn(pass_, std::move(passed), memory_.capacity(), look_ahead_);
    }
    path_ = nullptr;
    following_ = false;
  }

  /// Begins a pass of a kind and posts the first of its prefetches.
  void begin_pass(std::uint8_t pass) {
    pass_ = pass;
    is_deferred_ = false;
    expect(expected());
    look_ahead();
  }

  /// Ends the pass and begins one of another kind, with the parameters as they are. What was posted for a pass that was
  /// empty is given up only when the first lease shows that it does not serve the new one: a pass that stays empty
  /// costs nothing.
  void turn_to(std::uint8_t pass, Start start) {
    if (!pass_is_empty()) end_pass();
    pass_ = pass;
    is_deferred_ = true;
    if (start == Start::at_first_lease) return;
    begin_deferred();
    look_ahead();
  }

  /// See `WorkingMemory::forfeit`.
  void forfeit() noexcept { memory_.forfeit(); }

  bool pass_is_empty() const noexcept { return recorded_.events.empty(); }
  std::uint8_t pass() const noexcept { return pass_; }
  std::size_t capacity() const noexcept { return memory_.capacity(); }
  std::size_t largest_free() const { return memory_.largest_free(); }
  WorkingBytes bytes_of(WorkingUse use) const noexcept { return memory_.bytes_of(use); }

  /// Bytes that were posted ahead and not yet used.
  std::size_t posted_bytes() const { return pending_.posted_bytes(); }

  PipelineCounters counters() const {
    PipelineCounters counters = counters_;
    counters.dropped = pending_.dropped();
    counters.plans = paths_.plans();
    return counters;
  }

 private:
  /// The path that the pass will probably take, if it can be followed.
  const Path* expected() const { return untraced_ > 0 ? nullptr : paths_.expected(pass_); }

  /// Begins to follow a path from its first event on.
  void expect(const Path* path) {
    path_ = path;
    following_ = path != nullptr;
    is_disturbed_ = untraced_ > 0;
    has_strayed_ = false;
    next_ = 0;
  }

  /// Chooses the path of a pass that `turn_to` has begun, if that is still to be done.
  void begin_deferred() {
    if (!std::exchange(is_deferred_, false)) return;
    const Path* const path = expected();
    if (path && path == path_ && following_) return;  // the pass that was begun before
    expect(path);
    path ? keep_pending_of(*path) : pending_.give_up_all();
  }

  void follow_acquire(UseKey key) {
    if (following_) {
      const NextEvent next{TraceEvent::Kind::acquire, key, 0};
      if (path_->trace.has(recorded_.events.size(), next) || change_path(next)) return;
    }
    if (!path_) return;
    const std::size_t resumed = path_->next_use(key, resume_);
    if (resumed != TraceUse::never) resume_ = resumed + 1;
  }

  /// Goes over to a known path that goes on with `next`, or leaves the path. @return Whether there is one.
  bool change_path(const NextEvent& next) {
    const Path* const other = paths_.continuation(*path_, recorded_.events.size(), next);
    if (!other) {
      leave_path();
      return false;
    }
    stray();
    path_ = other;
    keep_pending_of(*other);
    next_ = 0;
    return true;
  }

  /// Keeps what is pending if the path has it at this position in the same place too; gives up the rest.
  void keep_pending_of(const Path& path) {
    pending_.reassign([&](const PendingGather& p) {
      std::size_t use = path.next_use(p.key, recorded_.uses.size());
      while (use != TraceUse::never && pending_.contains(use)) use = path.next_use(p.key, use + 1);
      if (use == TraceUse::never || path.plan[use].offset != p.offset) return TraceUse::never;
      const bool is_posted = path.plan[use].post <= recorded_.events.size();
      const bool has_stayed = p.has_stayed() && path.plan[p.stays_from].kept_for == use;
      return is_posted || has_stayed ? use : TraceUse::never;
    });
  }

  void leave_path() {
    following_ = false;
    resume_ = recorded_.uses.size();
    stray();
  }

  void stray() {
    if (!std::exchange(has_strayed_, true)) ++counters_.mended;
  }

  static constexpr WorkingUse use_of(UseKey key) noexcept {
    return key.kind == UseKind::gathered ? WorkingUse::gathered : WorkingUse::gradient;
  }

  bool leaves_room(std::size_t offset, std::size_t bytes) {
    return guard_.leaves_room(offset, bytes, memory_.capacity(), paths_.needed());
  }

  std::optional<PendingGather> claim(UseKey key) {
    if (key.kind != UseKind::gathered) return std::nullopt;
    auto found = following_ ? pending_.take(recorded_.uses.size()) : pending_.take(key);
    if (found && !following_ && !leaves_room(found->offset, found->bytes)) {
      pending_.give_up(std::move(*found));
      return std::nullopt;
    }
    return found;
  }

  void record(const PendingGather& buffer) {
    const std::size_t use = recorded_.acquire(buffer.key, buffer.bytes, buffer.offset);
    if (buffer.has_stayed()) {
      recorded_.uses[buffer.stays_from].kept_for = use;
    } else {
      recorded_.uses[use].posted = buffer.posted;
    }
    guard_.add(buffer.offset, buffer.bytes);
    recorded_.needed = std::max(recorded_.needed, guard_.stacked_top());
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
    for (next_ = std::max(next_, recorded_.uses.size()); next_ < uses.size(); ++next_) {
      const IntervalPlan::Slot& slot = path_->plan[next_];
      if (slot.post == IntervalPlan::on_demand) continue;
      if (slot.post > recorded_.events.size()) return;
      if (!pending_.contains(next_) && memory_.is_free(slot.offset, uses[next_].bytes)) post(next_, slot.offset);
    }
  }

  /// Prefetches off the path are placed from above, so that what is taken on demand finds its room in one piece.
  void post_mended() {
    pending_.give_up_before(resume_);
    const auto& uses = path_->trace.uses;
    for (next_ = std::max(next_, resume_); next_ < uses.size(); ++next_) {
      if (uses[next_].key.kind != UseKind::gathered || pending_.contains(next_)) continue;
      const auto offset = memory_.find_highest(uses[next_].bytes);
      if (!offset || pending_.posted_bytes() + uses[next_].bytes > look_ahead_) return;
      post(next_, *offset);
    }
  }

  void post(std::size_t use, std::size_t offset) {
    const TraceUse& expected = path_->trace.uses[use];
    std::vector<Completion> after = memory_.take(offset, expected.bytes, use_of(expected.key));
    std::vector<Completion> ready = fetch_(expected.key, memory_.data(offset), std::move(after));
    pending_.add({use, expected.key, offset, expected.bytes, std::move(ready), recorded_.events.size()});
  }

  /// Leaves a buffer that is released where it is, if the plan says so. @return Whether it does.
  bool keep(std::size_t use, std::vector<Completion>& last_uses) {
    if (!following_) return false;
    const IntervalPlan::Slot& slot = path_->plan[use];
    if (slot.kept_for == TraceUse::never || pending_.contains(slot.kept_for)) return false;
    const TraceUse& kept = recorded_.uses[use];
    pending_.add({slot.kept_for, kept.key, kept.offset, kept.bytes, std::move(last_uses), TraceUse::never, use});
    return true;
  }

  WorkingMemory memory_;
  std::size_t look_ahead_;
  bool grows_;  ///< With what is gathered.
  std::size_t gathers_ahead_;
  Fetch fetch_;
  PathMemory paths_;
  PipelineCounters counters_;

  std::uint8_t pass_ = 0;
  Trace recorded_;
  const Path* path_ = nullptr;  ///< The path that the pass is expected to take; nullptr: unknown.
  bool following_ = false;      ///< The pass has followed it exactly so far.
  std::size_t next_ = 0;        ///< The first use of the path that was not considered for posting.
  std::size_t resume_ = 0;      ///< Off the path: the first of its uses that may still come.
  bool is_deferred_ = false;    ///< The pass has begun, and its path is chosen at its first lease.
  bool has_strayed_ = false;    ///< The pass has left the path that it was expected to take.
  std::size_t untraced_ = 0;    ///< Buffers in use outside of every pass.
  bool is_disturbed_ = false;   ///< There was one during the pass: its addresses are no example.
  PendingGathers pending_{memory_};
  FragmentationGuard guard_;
};

}  // namespace zerospan::inline v0::detail
