/// @file
/// Residency: which buffers stay in working memory after their release, for their next use.
#pragma once

#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/headroom.hpp>
#include <zerospan/pipeline/detail/trace.hpp>

namespace zerospan::inline v0::detail {

/// Chooses by next use: whose next use comes first stays, if there is room for it until then beside what is in use and
/// what stays already; and so on. Of buffers of one size no choice keeps more: it is Belady's ("A study of replacement
/// algorithms for a virtual-storage computer", 1966), from the other end. Of buffers of several sizes it leaves no
/// room that another would have fitted into. A model's passes are cyclic, and recency keeps just what is needed last.
class Residency {
 public:
  /// Nothing stays.
  explicit Residency(const Trace& trace) : kept_for_(trace.uses.size(), TraceUse::never) {}

  /// @param bytes Of working memory, for what is in use and what stays.
  Residency(const Trace& trace, std::size_t bytes) : Residency{trace} {
    Headroom headroom{free_at_acquisitions(trace, bytes)};
    std::map<UseKey, std::size_t> last;
    for (std::size_t u = 0; u < trace.uses.size(); ++u) {
      const TraceUse& use = trace.uses[u];
      if (use.key.kind != UseKind::gathered) continue;
      const auto [entry, is_first] = last.try_emplace(use.key, u);
      if (is_first) continue;
      const std::size_t former = std::exchange(entry->second, u);
      const std::size_t released = trace.uses[former].released;
      if (released > use.acquired) continue;  // the key is in use twice at once
      if (headroom.take(trace.uses_within(released), u, use.bytes)) kept_for_[former] = u;
    }
  }

  /// The next use of what `use` has gathered, if it stays until then; else `TraceUse::never`.
  std::size_t kept_for(std::size_t use) const { return kept_for_[use]; }

 private:
  /// What each use finds free beside itself, if nothing stays. A gradient counts until the next one has ended: it is
  /// read by its reduction.
  static std::vector<std::ptrdiff_t> free_at_acquisitions(const Trace& trace, std::size_t bytes) {
    std::vector<std::ptrdiff_t> free;
    free.reserve(trace.uses.size());
    auto left = static_cast<std::ptrdiff_t>(bytes);
    std::ptrdiff_t draining = 0;
    for (const TraceEvent& event : trace.events) {
      const TraceUse& use = trace.uses[event.use];
      const auto size = static_cast<std::ptrdiff_t>(use.bytes);
      if (event.kind == TraceEvent::Kind::acquire) {
        left -= size;
        free.push_back(left);
      } else {
        left += use.key.kind == UseKind::gradient ? std::exchange(draining, size) : size;
      }
    }
    return free;
  }

  std::vector<std::size_t> kept_for_;
};

}  // namespace zerospan::inline v0::detail
