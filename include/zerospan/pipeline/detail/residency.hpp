/// @file
/// Residency: which buffers stay in working memory after their release, for their next use.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// Chooses by next use (Belady, "A study of replacement algorithms for a virtual-storage computer", 1966): whenever
/// memory runs short, the buffer goes whose next use is the farthest. A model's passes are cyclic, and recency keeps
/// just what is needed last.
class Residency {
 public:
  /// Nothing stays.
  explicit Residency(const Trace& trace) : kept_for_(trace.uses.size(), TraceUse::never) {}

  /// @param bytes Of working memory, for what is in use and what stays.
  Residency(const Trace& trace, std::size_t bytes) : Residency{trace} {
    const std::vector<std::size_t> next = next_uses(trace);
    for (const TraceEvent& event : trace.events) {
      const TraceUse& use = trace.uses[event.use];
      if (event.kind == TraceEvent::Kind::release) {
        release(trace, event.use, next[event.use]);
      } else if (!take_kept(event.use)) {
        taken_ += use.bytes;
        make_room(trace, bytes);
      }
    }
  }

  /// The next use of what `use` has gathered, if it stays until then; else `TraceUse::never`.
  std::size_t kept_for(std::size_t use) const { return kept_for_[use]; }

 private:
  /// The first later use of the same key; `never` if there is none, or if it begins before this one has ended.
  static std::vector<std::size_t> next_uses(const Trace& trace) {
    std::vector<std::size_t> next(trace.uses.size(), TraceUse::never);
    std::map<UseKey, std::size_t> last;
    for (std::size_t u = 0; u < trace.uses.size(); ++u) {
      const TraceUse& use = trace.uses[u];
      if (use.key.kind != UseKind::gathered) continue;
      const auto [before, is_first] = last.try_emplace(use.key, u);
      if (!is_first && trace.uses[before->second].released < use.acquired) next[before->second] = u;
      before->second = u;
    }
    return next;
  }

  /// A gradient counts until the next one has ended: it is read by its reduction.
  void release(const Trace& trace, std::size_t u, std::size_t next) {
    const TraceUse& use = trace.uses[u];
    if (use.key.kind == UseKind::gradient) {
      taken_ -= std::exchange(draining_, use.bytes);
    } else if (next != TraceUse::never) {
      kept_for_[u] = next;
      kept_.insert({next, u});
    } else {
      taken_ -= use.bytes;
    }
  }

  bool take_kept(std::size_t u) {
    const auto kept = kept_.lower_bound({u, 0});
    if (kept == kept_.end() || kept->first != u) return false;
    kept_.erase(kept);
    return true;
  }

  void make_room(const Trace& trace, std::size_t bytes) {
    while (taken_ > bytes && !kept_.empty()) {
      const auto farthest = std::prev(kept_.end());
      const std::size_t evicted = farthest->second;
      taken_ -= trace.uses[evicted].bytes;
      kept_for_[evicted] = TraceUse::never;
      kept_.erase(farthest);
    }
  }

  std::vector<std::size_t> kept_for_;
  std::set<std::pair<std::size_t, std::size_t>> kept_;  ///< Next use (uses are numbered by acquisition), use.
  std::size_t taken_ = 0;                               ///< Bytes in use, draining or kept.
  std::size_t draining_ = 0;
};

}  // namespace zerospan::inline v0::detail
