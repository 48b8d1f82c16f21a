/// @file
/// Trace: the sequence of leases of one pass, and the uses of memory that follow from it.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

enum class UseKind : std::uint8_t { gathered, gradient };

/// What a use of working memory is for: a group of parameters gathered together, or the gradient of one parameter. The
/// engine numbers groups and gradients apart.
struct UseKey {
  UseKind kind;
  std::uint32_t number;

  // Written out: what nvcc makes of defaulted ones does not compile everywhere.
  friend constexpr bool operator==(const UseKey& a, const UseKey& b) noexcept {
    return a.kind == b.kind && a.number == b.number;
  }
  friend constexpr auto operator<=>(const UseKey& a, const UseKey& b) noexcept {
    return a.kind != b.kind ? a.kind <=> b.kind : a.number <=> b.number;
  }
};

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
  std::size_t bytes;             ///< A multiple of the working memory's alignment.
  std::size_t acquired;          ///< Position of the acquisition.
  std::size_t released = never;  ///< Position of the release.

  // What happened when it was recorded.
  std::size_t offset;          ///< Where it was in working memory.
  std::size_t posted = never;  ///< How many events had happened when its gather was posted ahead; `never`: it was not.
  std::size_t kept_for = never;  ///< The use that its buffer stayed for.
};

/// What comes next in a pass.
struct NextEvent {
  TraceEvent::Kind kind;
  UseKey key;       ///< Of an acquisition.
  std::size_t use;  ///< Of a release.
};

/// What one pass did, in program order. Two passes are the same path if their events and keys agree.
struct Trace {
  std::vector<TraceEvent> events;
  std::vector<TraceUse> uses;        ///< In the order of their acquisition.
  std::size_t needed = 0;            ///< Bytes that it takes if each use goes to the lowest free offset.
  std::uint64_t fingerprint = seed;  ///< A hash of the events and keys: equal for equal paths.

  /// @return The index of the use.
  std::size_t acquire(UseKey key, std::size_t bytes, std::size_t offset) {
    const std::size_t use = uses.size();
    uses.push_back({key, bytes, events.size(), TraceUse::never, offset, TraceUse::never, TraceUse::never});
    events.push_back({TraceEvent::Kind::acquire, use});
    add_to_fingerprint((std::uint64_t{key.number} << 2U) | (key.kind == UseKind::gradient ? 2U : 0U) | 1U);
    return use;
  }

  void release(std::size_t use) {
    uses[use].released = events.size();
    events.push_back({TraceEvent::Kind::release, use});
    add_to_fingerprint(std::uint64_t{use} << 1U);
  }

  /// Whether the event at `position` is the one that comes next.
  bool has(std::size_t position, const NextEvent& next) const {
    if (position >= events.size() || events[position].kind != next.kind) return false;
    const std::size_t use = events[position].use;
    return next.kind == TraceEvent::Kind::acquire ? uses[use].key == next.key : use == next.use;
  }

  /// How many events both begin with.
  std::size_t common_events(const Trace& other) const {
    const std::size_t shorter = std::min(events.size(), other.events.size());
    for (std::size_t i = 0; i < shorter; ++i) {
      if (!has(i, {other.events[i].kind, other.uses[other.events[i].use].key, other.events[i].use})) return i;
    }
    return shorter;
  }

  /// How many of the uses are acquired in the first `count` events.
  std::size_t uses_within(std::size_t count) const {
    const auto end = std::ranges::lower_bound(uses, count, {}, &TraceUse::acquired);
    return static_cast<std::size_t>(end - uses.begin());
  }

  bool same_path(const Trace& other) const {
    return fingerprint == other.fingerprint && events.size() == other.events.size() &&
           common_events(other) == events.size();
  }

  /// Bytes of host memory that it takes.
  std::size_t memory_bytes() const {
    return events.capacity() * sizeof(TraceEvent) + uses.capacity() * sizeof(TraceUse);
  }

 private:
  static constexpr std::uint64_t seed = 0xcbf29ce484222325U;

  void add_to_fingerprint(std::uint64_t event) {
    fingerprint = (fingerprint ^ event) * 0x9e3779b97f4a7c15U;
    fingerprint ^= fingerprint >> 29U;
  }
};

}  // namespace zerospan::inline v0::detail
