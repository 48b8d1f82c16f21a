/// @file
/// A step as it is planned, as a picture.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/plan/planned_span.hpp>

#include "timeline.hpp"

namespace drawing {

/// One step, lane by lane; the first line is the path that makes it as long as it is.
/// @param tracks What is drawn of them, from the top down.
/// @param whose Is told in the headline: "rank 0, as planned".
/// @throws DrawingError if nothing takes any time.
inline std::string draw_planned_step(const std::vector<zerospan::plan::PlannedSpan>& spans,
                                     const std::vector<zerospan::plan::PlannedSpan>& critical_path,
                                     const std::vector<std::string_view>& tracks, std::string_view whose) {
  std::vector<TracedLane> lanes{{"critical path", {}}};
  for (const std::string_view track : tracks) lanes.push_back({std::string{track}, {}});
  const auto add = [](TracedLane& lane, const zerospan::plan::PlannedSpan& span) {
    const std::string kind{to_string(span.kind)};
    lane.spans.push_back({kind, kind + " " + span.name, 1e3 * span.begin, 1e3 * span.end});
  };
  for (const zerospan::plan::PlannedSpan& span : critical_path) add(lanes.front(), span);
  double end = 0;
  for (const zerospan::plan::PlannedSpan& span : spans) {
    const auto lane = std::ranges::find(lanes, span.track, &TracedLane::name);
    if (lane != lanes.end()) add(*lane, span);
    end = std::max(end, span.end);
  }
  return draw_timeline(lanes, {0, 1e3 * end}, whose);
}

}  // namespace drawing
