/// @file
/// plan::PlannedSpan: one thing that a rank does in a planned step.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::plan {

/// Something that a rank does, or waits for. Seconds are from the beginning of the step.
struct PlannedSpan {
  std::string_view track;  ///< Static text: "host", "stream", or a lane's name.
  OperationKind kind;
  std::string name;  ///< What it is done for.
  std::size_t bytes;
  double begin;
  double end;
};

}  // namespace zerospan::inline v0::plan
