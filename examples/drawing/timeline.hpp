/// @file
/// One step of a training as a picture: what each lane of a rank did, and when.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "error.hpp"
#include "svg.hpp"

namespace drawing {

/// What a lane did at once, in milliseconds.
struct LaneSpan {
  std::string kind;  ///< "read", "all-gather", "update".
  std::string name;  ///< The kind, and what it was done for: "read head".
  double begin;
  double end;
};

/// One lane of one rank. Transfers of a disk's lanes may overlap.
struct TracedLane {
  std::string name;
  std::vector<LaneSpan> spans;
};

/// A part of the timeline.
struct Interval {
  double begin;
  double end;

  double length() const { return end - begin; }
};

namespace detail {

/// The lane's spans in the order of time. @throws DrawingError if there is no such lane.
inline std::vector<LaneSpan> spans_of(const std::vector<TracedLane>& lanes, std::string_view name) {
  const auto lane = std::ranges::find(lanes, name, &TracedLane::name);
  if (lane == lanes.end()) throw DrawingError{fmt::format("the trace has no lane \"{}\"", name)};
  auto spans = lane->spans;
  std::ranges::sort(spans, {}, &LaneSpan::begin);
  return spans;
}

}  // namespace detail

/// The last step between two others. A step ends where its host computes again once the norm of its gradients is known:
/// updates may come later, behind the next step's computation.
/// @throws DrawingError if there is none.
inline Interval last_whole_step(const std::vector<TracedLane>& lanes) {
  const auto is_norm = [](const LaneSpan& span) { return span.name.ends_with(" the gradient norm"); };
  auto spans = detail::spans_of(lanes, "host");
  std::erase_if(spans, [&](const LaneSpan& span) { return span.kind != "compute"; });
  for (const TracedLane& lane : lanes) std::ranges::copy_if(lane.spans, std::back_inserter(spans), is_norm);
  std::ranges::sort(spans, {}, &LaneSpan::begin);
  std::vector<double> ends;
  for (std::size_t i = 1; i < spans.size(); ++i) {
    if (is_norm(spans[i - 1]) && !is_norm(spans[i])) ends.push_back(spans[i].begin);
  }
  if (ends.size() < 2) throw DrawingError{"the trace has no step between two others: train three steps or more"};
  return {ends[ends.size() - 2], ends.back()};
}

namespace detail {

/// What the picture shows of `spans`: those of one kind within the interval, those joined between which no gap could be
/// seen.
inline std::vector<LaneSpan> visible(const std::vector<LaneSpan>& spans, std::string_view kind, Interval interval,
                                     double least_gap) {
  std::vector<LaneSpan> shown;
  for (const LaneSpan& span : spans) {
    if (span.kind != kind || span.end <= interval.begin || span.begin >= interval.end) continue;
    const double begin = std::max(span.begin, interval.begin);
    const double end = std::min(span.end, interval.end);
    if (!shown.empty() && begin - shown.back().end < least_gap) {
      shown.back().end = end;
    } else {
      shown.push_back({span.kind, span.name, begin, end});
    }
  }
  return shown;
}

/// In which part of the interval there is something of each kind, by name.
inline std::map<std::string, double> shares(std::vector<LaneSpan> spans, Interval interval) {
  std::ranges::sort(spans, {}, &LaneSpan::begin);
  std::map<std::string, double> taken;
  std::map<std::string, double> until;  // of what is taken already
  for (const LaneSpan& span : spans) {
    double& known = until.try_emplace(span.kind, interval.begin).first->second;
    const double inside = std::min(span.end, interval.end) - std::max(span.begin, known);
    if (inside <= 0) continue;
    taken[span.kind] += inside / interval.length();
    known = span.end;
  }
  return taken;
}

inline std::string_view colour_of_kind(std::string_view kind) {
  if (kind == "compute" || kind == "update") return colours::blue;
  if (kind == "read") return colours::green;
  if (kind == "write") return colours::orange;
  if (kind == "copy" || kind == "accumulate") return colours::teal;
  if (kind == "all-gather") return colours::purple;
  if (kind == "reduce-scatter") return colours::pink;
  if (kind == "reduce") return colours::red;
  return colours::text;
}

}  // namespace detail

/// Draws what all lanes did in the interval, a line a lane, and behind it how much of the time that was.
/// @param whose Is told in the headline: "rank 0".
/// @throws DrawingError if nothing is in the interval.
inline std::string draw_timeline(const std::vector<TracedLane>& lanes, Interval interval, std::string_view whose) {
  constexpr double left = 135;
  constexpr double right = 745;
  constexpr double head = 40;
  constexpr double lane_height = 42;
  constexpr double bar_height = 22;
  constexpr double least_width = 0.6;
  constexpr double swatch = 8;
  constexpr double line_height = 13;
  constexpr double least_share = 0.005;  // that is listed, a line each
  if (!(interval.length() > 0)) throw DrawingError{"the step takes no time"};
  if (std::ranges::all_of(lanes,
                          [&](const TracedLane& lane) { return detail::shares(lane.spans, interval).empty(); })) {
    throw DrawingError{"the trace has nothing in the step"};
  }
  const auto height_of = [&](const TracedLane& lane) {
    const auto listed = std::ranges::count_if(detail::shares(lane.spans, interval),
                                              [](const auto& kind) { return kind.second >= least_share; });
    return std::max(lane_height, line_height * static_cast<double>(listed) + 3);
  };
  double bottom = head;
  for (const TracedLane& lane : lanes) bottom += height_of(lane);
  const double pixels = (right - left) / interval.length();
  const auto place = [&](double time) { return left + (time - interval.begin) * pixels; };

  const bool is_long = interval.length() >= 10'000;
  const double unit = is_long ? 1000 : 1;
  const std::string headline =
      fmt::format("One step of {}, lane by lane: {:.0f} {}", whose, interval.length() / unit, is_long ? "s" : "ms");
  Svg svg{{900, bottom + 46}, headline};
  svg.text({left, 22}, headline, {.size = 14, .bold = true});
  for (const double tick : ticks(0, interval.length() / unit, 8)) {
    const double x = place(interval.begin + tick * unit);
    svg.line({{x, head}, {x, bottom + 4}}, {.colour = colours::grid});
    svg.text({x, bottom + 18}, fmt::format("{:g}", tick), {.anchor = Anchor::middle, .size = 11});
  }
  svg.text({(left + right) / 2, bottom + 36}, is_long ? "seconds" : "milliseconds",
           {.anchor = Anchor::middle, .size = 11});

  double top = head;
  for (const TracedLane& lane : lanes) {
    svg.text({left - 8, top + 24}, lane.name, {.anchor = Anchor::end});
    double base_line = top + 13;
    for (const auto& [kind, share] : detail::shares(lane.spans, interval)) {
      const std::string_view colour = detail::colour_of_kind(kind);
      const double opacity = kind == "wait" ? 0.3 : 1;
      const auto shown = detail::visible(detail::spans_of(lanes, lane.name), kind, interval, least_width / pixels);
      for (const LaneSpan& span : shown) {
        const double width = std::max((span.end - span.begin) * pixels, least_width);
        svg.rectangle({place(span.begin), top + 9}, {width, bar_height}, colour, opacity);
      }
      if (share < least_share) continue;
      svg.rectangle({right + 12, base_line - swatch}, {swatch, swatch}, colour, opacity);
      svg.text({right + 26, base_line}, fmt::format("{} {:.0f}%", kind, 100 * share), {.size = 11});
      base_line += line_height;
    }
    top += height_of(lane);
  }
  return svg.file();
}

}  // namespace drawing
