/// @file
/// What is posted on a lane: a description that the timeline shows, the counters count and virtual time prices.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// The in-order lanes of one rank. Each has one executor; `communicate` issues every collective, in program order. What
/// updates read has a lane of its own: it waits for staging memory, and parameters are not to wait behind it.
enum class Lane : std::uint8_t { read, copy, communicate, read_states, update, write };

inline constexpr std::size_t lane_count = 6;

inline constexpr std::array<std::string_view, lane_count> lane_names{
    "read (nc)", "copy (cg)", "communicate (gg)", "read states", "update", "write"};

enum class OperationKind : std::uint8_t {
  read,
  write,
  copy,
  fill,
  all_gather,
  reduce_scatter,
  reduce,
  all_reduce,
  broadcast,
  barrier,
  accumulate,
  update,
  compute,
  wait,
};

inline constexpr std::size_t operation_kinds = 14;

constexpr std::string_view to_string(OperationKind kind) noexcept {
  constexpr std::array<std::string_view, operation_kinds> names{
      "read",       "write",     "copy",    "fill",       "all-gather", "reduce-scatter", "reduce",
      "all-reduce", "broadcast", "barrier", "accumulate", "update",     "compute",        "wait"};
  return names[static_cast<std::size_t>(kind)];
}

/// One unit of work on a lane.
struct Operation {
  OperationKind kind;
  std::string_view name;           ///< What it is done for (a parameter, a sub-group); the text outlives the operation.
  std::size_t bytes = 0;           ///< Bytes that it moves on this rank.
  const void* resource = nullptr;  ///< The tier it goes to, for virtual time; nullptr for the device itself.
};

}  // namespace zerospan::inline v0
