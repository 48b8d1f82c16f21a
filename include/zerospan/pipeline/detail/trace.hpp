/// @file
/// Trace: the sequence of leases of one pass, and the uses of memory that follow from it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// What a use of working memory is for: a group of parameters gathered together, or the gradient of one parameter.
/// Keys are small numbers that the engine deals out.
enum class UseKey : std::uint32_t {};

enum class UseKind : std::uint8_t { gathered, gradient };

/// One event of the host's program.
struct TraceEvent {
  enum class Kind : std::uint8_t { acquire, release };

  Kind kind;
  std::size_t use;  ///< Index into Trace::uses.

  friend bool operator==(const TraceEvent&, const TraceEvent&) = default;
};

/// One use of working memory, from its acquisition to its release. Positions count events from 0.
struct TraceUse {
  static constexpr std::size_t never = std::numeric_limits<std::size_t>::max();

  UseKey key;
  UseKind kind;
  std::size_t bytes;             ///< A multiple of the working memory's alignment.
  std::size_t acquired;          ///< Position of the acquisition.
  std::size_t released = never;  ///< Position of the release.
  std::size_t offset;            ///< Where it was when it was recorded, in working memory.
};

/// What one pass did, in program order. Two passes are the same path if their events, keys and kinds agree.
struct Trace {
  std::vector<TraceEvent> events;
  std::vector<TraceUse> uses;

  /// @return The index of the use.
  std::size_t acquire(UseKey key, UseKind kind, std::size_t bytes, std::size_t offset) {
    events.push_back({TraceEvent::Kind::acquire, uses.size()});
    uses.push_back({key, kind, bytes, events.size() - 1, TraceUse::never, offset});
    return uses.size() - 1;
  }

  void release(std::size_t use) {
    events.push_back({TraceEvent::Kind::release, use});
    uses[use].released = events.size() - 1;
  }

  /// How many events both begin with.
  std::size_t common_events(const Trace& other) const {
    const std::size_t shorter = std::min(events.size(), other.events.size());
    for (std::size_t i = 0; i < shorter; ++i) {
      if (events[i] != other.events[i]) return i;
      if (events[i].kind != TraceEvent::Kind::acquire) continue;
      const TraceUse& use = uses[events[i].use];
      const TraceUse& others = other.uses[other.events[i].use];
      if (use.key != others.key || use.kind != others.kind) return i;
    }
    return shorter;
  }

  /// How many of the uses are acquired in the first `count` events.
  std::size_t uses_within(std::size_t count) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(uses, [count](const TraceUse& use) { return use.acquired < count; }));
  }

  bool same_path(const Trace& other) const {
    return events.size() == other.events.size() && common_events(other) == events.size();
  }
};

}  // namespace zerospan::inline v0::detail
