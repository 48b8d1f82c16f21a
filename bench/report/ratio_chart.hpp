/// @file
/// All ratios of a table beside their goals, as bars.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "drawing/svg.hpp"
#include "error.hpp"
#include "table.hpp"

namespace bench {

namespace detail {

inline constexpr double height_of_bars = 10;

/// A goal, on a bar or beside it. @param centre Of the bar's height.
inline void draw_goal(drawing::Svg& svg, drawing::Point centre) {
  const std::vector<drawing::Point> line{{centre.x, centre.y - 7}, {centre.x, centre.y + 7}};
  svg.line(line, {.colour = drawing::colours::white, .width = 4});
  svg.line(line, {.colour = drawing::colours::text, .width = 2});
}

/// A prediction.
inline void draw_prediction(drawing::Svg& svg, drawing::Point centre) {
  svg.circle(centre, 3, drawing::colours::white, {.colour = drawing::colours::text, .width = 1.5});
}

}  // namespace detail

/// Draws a bar a row, with the goal and the prediction as marks on it, and the words of the table behind it.
/// @throws ReportError if there are no rows.
inline std::string draw_ratios(const std::vector<Row>& rows) {
  if (rows.empty()) throw ReportError{"there are no ratios to draw"};
  constexpr double left = 245;
  constexpr double right = 625;
  constexpr double head = 66;
  constexpr double row_height = 18;
  constexpr double between_topics = 8;
  constexpr double end_of_axis = 1.5;  // what is more ends there, with an arrow
  constexpr double column_of_ratios = 685;
  constexpr double column_of_goals = 700;
  constexpr double column_of_words = 800;

  const auto topic = [](const Row& row) { return row.name.substr(0, row.name.find('/')); };
  std::vector<double> tops;
  double bottom = head;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i > 0 && topic(rows[i]) != topic(rows[i - 1])) bottom += between_topics;
    tops.push_back(bottom);
    bottom += row_height;
  }
  const auto place = [=](double ratio) { return left + (right - left) * std::min(ratio, end_of_axis) / end_of_axis; };

  drawing::Svg svg{{900, bottom + 12}, "Speed of zerospan beside raw baselines: ratios and their goals"};
  svg.text({left, 20}, "Speed beside the raw baseline (1: as fast)", {.size = 14, .bold = true});
  svg.rectangle({left, 31}, {18, detail::height_of_bars}, drawing::colours::blue);
  svg.text({left + 24, 40}, "meets its goal");
  svg.rectangle({left + 115, 31}, {18, detail::height_of_bars}, drawing::colours::orange);
  svg.text({left + 139, 40}, "misses it");
  detail::draw_goal(svg, {left + 207, 36});
  svg.text({left + 215, 40}, "goal");
  detail::draw_prediction(svg, {left + 260, 36});
  svg.text({left + 270, 40}, "prediction");
  for (const double tick : drawing::ticks(0, end_of_axis, 3)) {
    svg.line({{place(tick), head - 2}, {place(tick), bottom}}, {.colour = drawing::colours::grid});
    svg.text({place(tick), head - 6}, fmt::format("{:.1f}", tick), {.anchor = drawing::Anchor::middle, .size = 11});
  }

  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const double top = tops[i];
    const double base_line = top + 13;
    const std::string_view colour = row.is_met() ? drawing::colours::blue : drawing::colours::orange;
    svg.text({left - 8, base_line}, row.name, {.anchor = drawing::Anchor::end});
    svg.rectangle({left, top + 4}, {place(row.ratio) - left, detail::height_of_bars}, colour);
    if (row.ratio > end_of_axis) {
      svg.line({{right + 3, top + 4}, {right + 8, top + 9}, {right + 3, top + 14}}, {.colour = colour, .width = 2});
    }
    if (row.prediction < end_of_axis) detail::draw_prediction(svg, {place(row.prediction), top + 9});
    if (row.goal < end_of_axis) detail::draw_goal(svg, {place(row.goal), top + 9});
    svg.text({column_of_ratios, base_line}, fmt::format("{:.2f}", row.ratio),
             {.anchor = drawing::Anchor::end, .bold = true});
    svg.text({column_of_goals, base_line}, goal_in_words(row));
    svg.text({column_of_words, base_line}, marks(row), {.bold = true});
  }
  return svg.file();
}

}  // namespace bench
