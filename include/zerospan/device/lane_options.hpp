/// @file
/// What the lanes of an engine are told, and what they count.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0 {

struct LaneOptions {
  Rank rank;
  std::chrono::milliseconds timeout = std::chrono::minutes{5};  ///< For one asynchronous transfer.
  Timeline* timeline = nullptr;                                 ///< Not owned; nullptr: nothing is recorded.
  std::function<void(const std::string& reason)> on_failure;    ///< Called once, at the first error, on any thread.
};

/// Totals of one kind of operation. Seconds that operations of one lane spend at the same time count once.
struct OperationCounter {
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;
};

struct LaneCounters {
  std::array<OperationCounter, operation_kinds> of_kind;
  std::array<double, operation_kinds> waited{};  ///< Seconds that the host's thread waited for operations of a kind.

  double waited_for(OperationKind kind) const { return waited[static_cast<std::size_t>(kind)]; }

  const OperationCounter& operator[](OperationKind kind) const { return of_kind[static_cast<std::size_t>(kind)]; }
  OperationCounter& operator[](OperationKind kind) { return of_kind[static_cast<std::size_t>(kind)]; }
};

}  // namespace zerospan::inline v0
