/// @file
/// The table of ratios: what was measured beside its goal, its prediction and the table before.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "error.hpp"

namespace bench {

/// How fast ours is, and its baseline. More is better; but of a latency less is, and its baseline is one microsecond.
struct Measurement {
  std::string name;
  std::string unit;
  double ours;
  double baseline;
  std::optional<double> noise{};  ///< The standard error of ours / baseline, as a part of it; none, if it is not known.
};

/// What the ratio of one row is to be.
struct Goal {
  std::string name;
  double goal;
  double prediction;     ///< What was expected before it was measured.
  bool at_most = false;  ///< The goal is an upper bound.
  std::string reason;    ///< Where the goal and the prediction are from.
};

/// One row: 1 is as fast as the baseline.
struct Row {
  std::string name;
  double ratio;
  double goal;
  double prediction;
  bool at_most = false;
  std::string unit{};
  double ours = 0;
  double baseline = 0;
  std::optional<double> previous{};  ///< The ratio in the table before, where that has the row.
  std::optional<double> noise{};     ///< The standard error of the ratio, where it is known.

  bool is_met() const { return at_most ? ratio <= goal : ratio >= goal; }

  /// Whether the goal is missed by no more than the ratio's standard error.
  bool is_unsure() const { return !is_met() && std::abs(ratio - goal) <= noise.value_or(0); }

  /// By which part the ratio has changed since the table before: 0.1 is a tenth more.
  std::optional<double> change() const { return previous ? std::optional{ratio / *previous - 1} : std::nullopt; }

  /// Whether the ratio is worse than in the table before by more than a twentieth.
  bool is_lost() const {
    constexpr double tolerated = 0.05;
    const double worse = at_most ? change().value_or(0) : -change().value_or(0);
    return worse > tolerated;
  }
};

/// The rows, and what prevents them from being all rows.
struct Table {
  std::vector<Row> rows;
  std::vector<std::string> without_goal;  ///< Names of measurements.
  std::vector<std::string> not_measured;  ///< Names of goals.
};

namespace detail {

inline void check_figure(const std::string& name, std::string_view what, double figure) {
  if (std::isfinite(figure) && figure > 0) return;
  throw ReportError{fmt::format("{}: its {} is {}, which is no positive number", name, what, figure)};
}

/// What `entries` have, by name. @param what Says what they are.
template <class Entry>
std::map<std::string, Entry> by_name(std::vector<Entry> entries, std::string_view what) {
  std::map<std::string, Entry> named;
  for (Entry& entry : entries) {
    const std::string name = entry.name;
    if (!named.emplace(name, std::move(entry)).second) throw ReportError{fmt::format("{}: has two {}", name, what)};
  }
  return named;
}

}  // namespace detail

/// Joins what has the same name, in the order of the goals.
/// @param previous The rows of the table before; none, if there was none.
/// @throws ReportError if nothing was measured, if a name stands twice, or if a figure is no positive number.
inline Table make_table(const std::vector<Measurement>& measurements, const std::vector<Goal>& goals,
                        const std::vector<Row>& previous) {
  if (measurements.empty()) throw ReportError{"nothing was measured"};
  auto measured = detail::by_name(measurements, "measurements");
  const auto before = detail::by_name(previous, "rows in the table before");
  detail::by_name(goals, "goals");
  Table table;
  for (const auto& [name, goal, prediction, at_most, reason] : goals) {
    detail::check_figure(name, "goal", goal);
    detail::check_figure(name, "prediction", prediction);
    const auto found = measured.extract(name);
    if (found.empty()) {
      table.not_measured.push_back(name);
      continue;
    }
    const auto& [same_name, unit, ours, baseline, noise] = found.mapped();
    detail::check_figure(name, "speed", ours);
    detail::check_figure(name, "baseline's speed", baseline);
    const double ratio = ours / baseline;
    const auto last = before.find(name);
    table.rows.push_back({name, ratio, goal, prediction, at_most, unit, ours, baseline,
                          last == before.end() ? std::nullopt : std::optional{last->second.ratio},
                          noise ? std::optional{*noise * ratio} : std::nullopt});
  }
  for (const auto& [name, measurement] : measured) table.without_goal.push_back(name);
  return table;
}

/// What keeps the table from being complete, a line each; empty if it is.
inline std::string complaints(const Table& table) {
  std::string lines;
  for (const std::string& name : table.without_goal) lines += name + ": was measured, but has no goal\n";
  for (const std::string& name : table.not_measured) lines += name + ": has a goal, but was not measured\n";
  return lines;
}

/// The goal with its direction: "at least 0.97".
inline std::string goal_in_words(const Row& row) {
  return fmt::format("{} {:.2f}", row.at_most ? "at most" : "at least", row.goal);
}

/// What is wrong with a row, in words: a goal that is missed, beyond the noise or within it, a loss. Empty if nothing
/// is.
inline std::string marks(const Row& row) {
  std::string words = row.is_met() ? "" : row.is_unsure() ? "UNSURE" : "MISSED";
  if (row.is_lost()) words += words.empty() ? "LOST" : ", LOST";
  return words;
}

/// The table as text: a line a row, and one that counts.
inline std::string in_text(const std::vector<Row>& rows) {
  std::size_t width = std::string_view{"benchmark"}.size();
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::string text = fmt::format("{:{}}  {:>10}  {:>10}  {:>6}  {:>6}  {:>14}  {:>9}  {:>7}\n", "benchmark", width,
                                 "ours", "baseline", "ratio", "noise", "goal", "predicted", "change");
  for (const Row& row : rows) {
    const auto change = row.change();
    const std::string words = marks(row);
    text += fmt::format("{:{}}  {:>10.4g}  {:>10.4g}  {:>6.3f}  {:>6}  {:>14}  {:>9.2f}  {:>7}{}{}\n", row.name, width,
                        row.ours, row.baseline, row.ratio, row.noise ? fmt::format("{:.3f}", *row.noise) : "-",
                        goal_in_words(row), row.prediction, change ? fmt::format("{:+.1f}%", 100 * *change) : "-",
                        words.empty() ? "" : "  ", words);
  }
  const auto unsure = std::ranges::count_if(rows, &Row::is_unsure);
  const auto missed = std::ranges::count_if(rows, [](const Row& row) { return !row.is_met(); }) - unsure;
  const auto lost = std::ranges::count_if(rows, &Row::is_lost);
  const auto compared = std::ranges::count_if(rows, [](const Row& row) { return row.previous.has_value(); });
  text += fmt::format(
      "{} rows: {} MISSED their goal, {} are UNSURE, within their noise of it; {} of {} compared with the table before "
      "LOST more than 5%\n",
      rows.size(), missed, unsure, lost, compared);
  return text;
}

}  // namespace bench
