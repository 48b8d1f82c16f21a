/// @file
/// Trace: the sequence of leases of one pass, and the uses of memory that follow from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

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

  bool same_path(const Trace& other) const {
    if (events != other.events) return false;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      if (uses[i].key != other.uses[i].key || uses[i].kind != other.uses[i].kind) return false;
    }
    return true;
  }
};

}  // namespace zerospan::inline v0
